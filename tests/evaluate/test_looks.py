"""What features show besides the target: planted sites, identities and strangers, against scikit-learn and scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from questions import diagnosis, recordings, some_people
from scipy.stats import binomtest
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score

from neuropipe.config import Evaluate, Roles
from neuropipe.errors import InputError
from neuropipe.evaluate import familiar, identification, shown, tables
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.looks import looks_of
from neuropipe.evaluate.places import plane
from neuropipe.evaluate.protocol import System
from neuropipe.evaluate.sites import balanced_accuracy, told_sites
from neuropipe.splits.people import gather

RNG = np.random.default_rng(0)


def three_sites(n: int = 90) -> np.ndarray:
    return np.array(["a/A", "a/B", "a/C"])[RNG.integers(0, 3, n)]


def test_sites_that_are_there_are_told_and_others_not():
    people, sites, noise = some_people(90), three_sites(), RNG.standard_normal((90, 8))
    rows = np.arange(90)
    planted = noise + 4 * (sites[:, None] == np.unique(sites)) @ RNG.standard_normal((3, 8))
    asked, predicted = told_sites(people, rows, sites, lambda _: Features(planted))
    assert np.array_equal(asked, rows)
    assert balanced_accuracy_score(sites, predicted) > 0.95
    _, guessed = told_sites(people, rows, sites, lambda _: Features(noise))
    assert balanced_accuracy_score(sites, guessed) == pytest.approx(1 / 3, abs=0.12)


def test_nobody_is_told_by_a_readout_that_learned_from_them():
    people, sites = some_people(90), three_sites()
    learned: list[set[int]] = []

    def features(train: np.ndarray) -> Features:
        learned.append(set(train.tolist()))
        return Features(np.zeros((90, 2)))

    told_sites(people, np.arange(90), sites, features)
    assert len(learned) == 5
    assert set.union(*(set(range(90)) - part for part in learned)) == set(range(90))
    assert sum(90 - len(part) for part in learned) == 90


def test_small_and_unknown_sites_are_not_asked():
    people, sites = some_people(90), three_sites().astype(object)
    sites[:4], sites[4:9] = "a/tiny", ""
    asked, _ = told_sites(people, np.arange(90), sites, lambda _: Features(RNG.standard_normal((90, 3))))
    assert asked.min() == 9
    one, _ = told_sites(people, np.arange(4), sites, lambda _: Features(np.zeros((90, 2))))
    assert len(one) == 0


def test_balanced_accuracy_is_that_of_scikit_learn():
    sites, predicted, weights = three_sites(), three_sites(), RNG.integers(1, 4, (3, 90))
    found = balanced_accuracy(sites == predicted, sites, weights.astype(float))
    expected = [balanced_accuracy_score(sites, predicted, sample_weight=own) for own in weights]
    assert found == pytest.approx(expected)


def twice_recorded(n_twice: int, n: int = 40):
    """People of whom the first `n_twice` have two recordings with a coupling of their own."""
    rng = np.random.default_rng(3)
    ids = [f"sub-{i:04d}" for i in range(n)]
    groups = np.where(np.arange(n) % 2, "patient", "control")
    table = pd.DataFrame({"site": "A", "diagnosis": groups, "age": 30.0, "sex": "F"}, index=pd.Index(ids))
    mixing = rng.standard_normal((n, 10, 10))
    owners = [*ids, *ids[:n_twice]]
    values = [rng.standard_normal((200, 10)) @ mixing[ids.index(owner)] for owner in owners]
    source = recordings(owners, values, table.rename_axis("participant_id"))
    source.manifest = source.manifest.assign(key=[f"{o}_{i:03d}" for i, o in enumerate(owners)], session="", run="")
    return gather([source], {"toy": Roles()}), source


def test_people_with_two_recordings_find_themselves():
    people, source = twice_recorded(15)
    two = identification.pairs(people)
    assert people.ids[two["row"]].tolist() == [f"toy/sub-{i:04d}" for i in range(15)]
    first, second = (identification.connectivity_of(people, [source], two[name]) for name in ("first", "second"))
    there, back = identification.found(first, second)
    assert there.all()
    assert back.all()
    wrong, _ = identification.found(first, np.roll(second, 1, axis=0))
    assert not wrong.any()


def test_likeness_is_the_correlation_over_features():
    first, second = RNG.standard_normal((12, 30)) + 5, RNG.standard_normal((12, 30)) * 3
    there, back = identification.found(first, second)
    likeness = np.corrcoef(first, second)[:12, 12:]
    assert np.array_equal(there, likeness.argmax(axis=1) == np.arange(12))
    assert np.array_equal(back, likeness.argmax(axis=0) == np.arange(12))


def test_one_recording_each_identifies_nobody():
    people, _ = twice_recorded(0)
    assert identification.pairs(people).empty


def test_the_plane_is_that_of_principal_components():
    values, train = RNG.standard_normal((40, 6)) * np.arange(1, 7), np.arange(25)
    expected = PCA(2).fit(values[train]).transform(values)
    assert np.abs(plane(values - values[train].mean(0), train)) == pytest.approx(np.abs(expected))


def test_only_strangers_are_far():
    values = RNG.standard_normal((600, 20)) @ RNG.standard_normal((20, 100))
    values += 0.1 * RNG.standard_normal(values.shape)
    values[-20:] += 60
    distance, threshold = familiar.distances(values, np.arange(300), np.arange(300) % 5)
    assert (distance[300:-20] > threshold).mean() < 0.08
    assert (distance[-20:] > threshold).all()
    values[310] = np.nan
    assert np.isnan(familiar.distances(values, np.arange(300), np.arange(300) % 5)[0][310])


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """The tables of a study with a reference that knows sites and a model that does not, read as evaluate does."""
    people = some_people(60)
    question = diagnosis(people)
    looks = looks_of(question, Evaluate(harmonise="combat"))
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((60, 12))
    sited = noise + 5.0 * (people.table["site"] == "B").to_numpy()[:, None]
    for system, values in ((System("fc"), sited), (System("recipe", 0), noise)):
        list(looks.versions(system, lambda _, v=values: Features(v)))
        looks.show(system, lambda _, v=values: Features(v), strangers=system.name == "recipe")
    folder = tmp_path_factory.mktemp("looked")
    looks.write(folder)
    read = {n: shown.read([folder / "predictions.parquet"], n, columns) for n, columns in shown.FILES.items()}
    return read, shown.metrics(read, draws=500, seed=0), tables.read([folder / "places.parquet"], tables.PLACES, "")


def test_sites_are_told_before_combat_and_not_after(looked):
    _, metrics, _ = looked
    rows = metrics[metrics["metric"] == "site_balanced_accuracy"]
    value = rows.groupby("system")["value"].first()
    assert value["fc"] == 1
    assert value["fc (ComBat)"] < 0.7
    assert value["recipe"] < 0.75
    assert set(rows["null_mean"]) == {0.5}
    assert set(rows["run_id"]) == {
        "diagnosis_fc_logistic",
        "diagnosis_fc-ComBat_logistic",
        "diagnosis_recipe_logistic_seed-0",
        "diagnosis_recipe-ComBat_logistic_seed-0",
    }


def test_each_is_compared_with_the_reference_and_with_itself_before(looked):
    _, metrics, _ = looked
    rows = metrics[metrics["metric"] == "site_balanced_accuracy"]
    compared = rows.groupby("system")["reference"].apply(lambda names: sorted(names.dropna()))
    assert compared.to_dict() == {
        "fc": [],
        "fc (ComBat)": ["fc"],
        "recipe": ["fc"],
        "recipe (ComBat)": ["fc", "recipe"],
    }
    row = rows[rows["system"] == "recipe"].iloc[0]
    assert row["delta"] == pytest.approx(row["value"] - 1)
    assert row["delta_ci_low"] < row["delta"] < row["delta_ci_high"] < 0


def test_intervals_hold_the_value_and_are_exact_where_all_agree(looked):
    read, metrics, _ = looked
    exact = metrics[metrics["ci_method"] == "exact_binomial"].iloc[0]
    n = len(read["sites"][read["sites"]["system"] == exact["system"]])
    assert exact["ci_low"] == pytest.approx(binomtest(n, n).proportion_ci(method="exact").low)
    other = metrics[metrics["ci_method"] == "bootstrap"]
    assert ((other["ci_low"] <= other["value"]) & (other["value"] <= other["ci_high"])).all()


def test_everyone_has_a_place_with_a_label(looked):
    _, _, places = looked
    assert set(places["system"]) == {"fc", "fc (ComBat)", "recipe", "recipe (ComBat)"}
    fc = places[places["system"] == "fc"]
    assert len(fc) == 60
    assert set(fc["label"]) == {"control", "patient"}
    assert set(fc["role"]) == {"train", "test"}
    b = fc["site"] == "B"
    assert abs(fc.loc[b, "x"].mean() - fc.loc[~b, "x"].mean()) > 5 * abs(fc.loc[b, "y"].mean() - fc.loc[~b, "y"].mean())


def test_strangers_are_of_test_people_of_trained_networks(looked):
    read, metrics, _ = looked
    rows = metrics[metrics["metric"] == "share_far"]
    assert rows["system"].tolist() == ["recipe"]
    tested = read["familiarity"][read["familiarity"]["role"] == "test"]
    assert rows["value"].iloc[0] == pytest.approx(tested["is_far"].astype(float).mean())


def test_recognised_people_become_a_rate_with_its_chance():
    people, source = twice_recorded(20)
    question = diagnosis(people, stratify=["diagnosis"])
    looks = looks_of(question, Evaluate())
    single = identification.connectivity_of
    looks.show(System("fc"), lambda _: Features(np.zeros((40, 2))), lambda _, rows: single(people, [source], rows))
    table = pd.concat(looks.rows["identified"])
    read = {name: table if name == "identified" else tables.frame([], columns) for name, columns in shown.FILES.items()}
    (row,) = shown.metrics(read, draws=200, seed=0).to_dict("records")
    assert (row["metric"], row["value"], row["null_mean"]) == ("identification_top1", 1, 1 / 20)
    tested = set(people.ids[question.folds[0].test]) & {f"toy/sub-{i:04d}" for i in range(20)}
    assert row["n_test"] == len(tested)


def at_sites(site: list[str | None]):
    table = pd.DataFrame(
        {"site": site, "diagnosis": ["control", "patient"] * 10}, index=[f"sub-{i}" for i in range(20)]
    )
    source = recordings(list(table.index), [np.zeros((5, 2))] * 20, table)
    return diagnosis(gather([source], {"toy": Roles()}))


def test_without_any_site_there_is_no_combat():
    with pytest.raises(InputError, match=r"evaluate\.harmonise needs sites, but nobody of task 'diagnosis' has one"):
        looks_of(at_sites([None] * 20), Evaluate(harmonise="combat"))
    assert looks_of(at_sites([None] * 20), Evaluate()).harmony is None


def test_of_a_single_site_there_is_nothing_to_take_away(caplog):
    assert looks_of(at_sites(["A"] * 20), Evaluate(harmonise="combat")).harmony is None
    assert "everybody is of the site toy/A" in caplog.text
    assert looks_of(at_sites(["A", "B"] * 10), Evaluate(harmonise="combat")).harmony is not None


def test_the_site_of_a_test_dataset_gives_no_combat_to_learn():
    asked = at_sites(["A"] * 10 + ["B"] * 10)
    table = asked.people.table
    people = replace(asked.people, table=table.assign(dataset=np.where(table["site"] == "A", "toy", "outside")))
    outside = replace(asked, people=people, target=replace(asked.target, test_datasets=("outside",)))
    assert looks_of(outside, Evaluate(harmonise="combat")).harmony is None
