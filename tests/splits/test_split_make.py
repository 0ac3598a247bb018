"""Splits: disjoint in persons, exact in size, even within site and label, and blind to the order of rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cohorts import participants, people

from neuropipe.config import Split
from neuropipe.errors import SplitError
from neuropipe.splits.make import COLUMNS, make_split


def split(settings: dict, *tables: pd.DataFrame, **roles) -> pd.DataFrame:
    return make_split("main", Split(**settings), people(*tables, **roles))


def counts(table: pd.DataFrame, *, fold: str | None = None) -> dict[str, int]:
    rows = table if fold is None else table[table["fold"] == fold]
    return rows["role"].value_counts().to_dict()


EVERY_SCHEME = [
    {"scheme": "holdout", "test": 0.3, "validation": 0.2, "stratify": ["site", "diagnosis"]},
    {"scheme": "kfold", "n_folds": 4, "validation": 0.2, "stratify": ["diagnosis"]},
    {"scheme": "repeated_kfold", "n_folds": 3, "n_repeats": 4},
    {"scheme": "leave_one_site_out", "validation": 0.2},
    {"scheme": "predefined", "by": "site", "train_values": ["site A"], "test_values": ["site B"], "validation": 0.1},
]


@pytest.mark.parametrize("settings", EVERY_SCHEME, ids=lambda s: s["scheme"])
def test_families_stay_together_and_everyone_is_listed_once_per_fold(settings):
    table = split(settings, participants(60), kin="family")
    assert table.columns.tolist() == COLUMNS
    for _, rows in table.groupby(["repeat", "fold"]):
        assert rows["participant_id"].is_unique
        assert len(rows) == 60
    if settings["scheme"] == "predefined":  # families may live at two sites: the audit says so, not the draw
        return
    used = table[table["role"] != "unused"]
    assert (used.groupby(["repeat", "fold", "person"])["role"].nunique() == 1).all()


@pytest.mark.parametrize("settings", EVERY_SCHEME, ids=lambda s: s["scheme"])
def test_the_order_of_rows_does_not_matter_and_the_seed_does(settings):
    table = participants(60)
    first = split(settings, table)
    pd.testing.assert_frame_equal(first, split(settings, table.sort_index(ascending=False)))
    assert not first["role"].equals(split(settings | {"seed": 7}, table)["role"])


def test_a_holdout_keeps_each_site_and_label_to_within_one_person():
    table = participants(97, sites=5)
    made = split({"scheme": "holdout", "test": 0.3, "validation": 0.1, "stratify": ["diagnosis"]}, table)
    assert counts(made) == {"train": 97 - 29 - 10, "test": 29, "validation": 10}
    joined = made.merge(table.reset_index(), on="participant_id")
    for keys in (["site_x"], ["site_x", "diagnosis"]):
        size = joined.groupby(keys).size()
        assert (abs(joined[joined["role"] == "test"].groupby(keys).size() - 0.3 * size) < 1.0).all()


def test_a_continuous_column_is_kept_by_quartile():
    table = participants(200, sites=1)
    made = split({"scheme": "holdout", "test": 0.25, "stratify": ["age"]}, table)
    tested = made.loc[made["role"] == "test", "participant_id"]
    quartile = pd.qcut(table["age"], 4, labels=False)
    assert quartile[tested].value_counts().between(12, 13).all()


def test_counts_of_people_per_dataset():
    tables = participants(40), participants(30, seed=1)
    made = split({"scheme": "holdout", "test": {"d0": 11, "d1": 7}, "validation": {"d1": 5}}, *tables)
    found = made.groupby(["dataset", "role"]).size().to_dict()
    assert found == {
        ("d0", "test"): 11,
        ("d0", "train"): 29,
        ("d1", "test"): 7,
        ("d1", "train"): 18,
        ("d1", "validation"): 5,
    }
    assert counts(split({"scheme": "holdout", "test": 20}, *tables)) == {"train": 50, "test": 20}


def test_more_people_than_there_are_is_an_error():
    with pytest.raises(SplitError, match=r"splits.main.test: 41 asked for, but only 40"):
        split({"scheme": "holdout", "test": 41}, participants(40))
    with pytest.raises(SplitError, match=r"no people of dataset 'other'"):
        split({"scheme": "holdout", "test": {"other": 3}}, participants(40))


def test_every_person_is_tested_once_by_kfold_and_once_per_repeat():
    made = split({"scheme": "kfold", "n_folds": 5, "stratify": ["diagnosis"]}, participants(53))
    tested = made[made["role"] == "test"]
    assert tested["participant_id"].is_unique
    assert len(tested) == 53
    assert set(tested["fold"].value_counts()) == {10, 11}

    again = split({"scheme": "repeated_kfold", "n_folds": 5, "n_repeats": 3}, participants(53))
    assert sorted(again["fold"].unique()) == sorted(f"r{r}-f{f}" for r in range(3) for f in range(5))
    tested = again[again["role"] == "test"]
    assert (tested.groupby("repeat")["participant_id"].nunique() == 53).all()
    assert not tested[tested["repeat"] == 0]["fold"].str[-1].equals(tested[tested["repeat"] == 1]["fold"].str[-1])


def test_site_and_label_shares_are_even_over_kfold():
    table = participants(120, sites=4)
    made = split({"scheme": "kfold", "n_folds": 5, "stratify": ["diagnosis"]}, table)
    tested = made[made["role"] == "test"].merge(table.reset_index()[["participant_id", "diagnosis"]])
    sizes = tested.groupby(["fold", "site", "diagnosis"]).size().unstack(["site", "diagnosis"])
    assert sizes.notna().all().all()
    assert (sizes.max() - sizes.min() <= 1).all()


@pytest.mark.parametrize("n", [97, 120])
def test_every_repeat_tests_each_label_of_each_site_in_its_share(n):
    table = participants(n, sites=4)
    settings = {"scheme": "repeated_kfold", "n_folds": 5, "n_repeats": 4, "validation": 0.2, "stratify": ["diagnosis"]}
    made = split(settings, table).merge(table.reset_index()[["participant_id", "diagnosis"]])
    everyone = table.groupby(["site", "diagnosis"]).size()
    for fold, rows in made.groupby("fold"):
        by_role = rows.groupby(["site", "diagnosis", "role"]).size().unstack(fill_value=0)
        assert (by_role["test"] >= everyone // 5).all() and (by_role["test"] <= -(-everyone // 5)).all(), fold
        free = everyone - by_role["test"]
        share = round(0.2 * n) / free.sum()
        assert (abs(by_role["validation"] - share * free) < 1).all(), fold
        assert by_role["validation"].sum() == round(0.2 * n) and by_role["test"].sum() in (n // 5, n // 5 + 1)


def test_large_families_are_spread_over_folds():
    rng = np.random.default_rng(0)
    table = participants(400)
    families = np.repeat(np.arange(400), rng.choice([1, 2, 3, 4, 5], 400, p=[0.4, 0.2, 0.2, 0.1, 0.1]))[:400]
    table["family"] = [f"f{number}" for number in families]
    made = split({"scheme": "kfold", "n_folds": 5}, table, kin="family")
    tested = made[made["role"] == "test"]
    assert tested.groupby("person")["fold"].nunique().max() == 1
    sizes = tested.groupby("person").size()
    counts = pd.crosstab(tested.drop_duplicates("person").set_index("person")["fold"], sizes)
    assert (counts.max() - counts.min() <= 3).all()  # of each size of family; one per site may be left over
    assert tested["fold"].value_counts().between(72, 88).all()  # 80 on average


def test_leaving_a_site_out_leaves_kin_elsewhere_out_of_training():
    table = participants(30)  # families of two neighbours, so that most live at two sites
    made = split({"scheme": "leave_one_site_out"}, table, kin="family")
    assert sorted(made["fold"].unique()) == ["site-A", "site-B", "site-C"]
    for fold, rows in made.groupby("fold"):
        tested = rows[rows["role"] == "test"]
        assert set(tested["site"]) == {fold.replace("-", " ")}
        assert set(rows[rows["role"] == "unused"]["person"]) <= set(tested["person"])
        assert not set(rows[rows["role"] == "train"]["person"]) & set(tested["person"])
        assert (rows["role"] == "unused").any()


def test_another_column_can_name_the_site():
    made = split({"scheme": "leave_one_site_out", "site": "sex"}, participants(30))
    assert sorted(made["fold"].unique()) == ["F", "M"]
    assert set(made["site"]) == {"F", "M"}


def test_sites_that_cannot_name_folds_are_refused():
    table = participants(6)
    for wrong, message in ((None, "have no site"), ("site-A", "must differ"), ("mean", "must differ")):
        renamed = table.assign(site=["site A"] * 3 + [wrong] * 3)
        with pytest.raises(SplitError, match=message):
            split({"scheme": "leave_one_site_out"}, renamed)
    with pytest.raises(SplitError, match="needs two sites"):
        split({"scheme": "leave_one_site_out"}, table.assign(site="A"))


def test_values_of_a_column_decide_the_side():
    made = split(
        {"scheme": "predefined", "by": "site", "train_values": ["site A"], "test_values": ["site B"]}, participants(30)
    )
    assert made.groupby("site")["role"].unique().map(list).to_dict() == {
        "site A": ["train"],
        "site B": ["test"],
        "site C": ["unused"],
    }


def test_a_mistyped_value_is_an_error_not_an_empty_side():
    settings = {"scheme": "predefined", "by": "site", "train_values": ["site A"], "test_values": ["site b"]}
    with pytest.raises(SplitError, match=r"nobody has site = 'site b'; found site A, site B, site C"):
        split(settings, participants(30))
    with pytest.raises(SplitError, match="listed for train and test"):
        split(settings | {"test_values": ["site A"]}, participants(30))


def written(tmp_path, rows: list[tuple], columns: list[str]) -> dict:
    path = tmp_path / "split.tsv"
    pd.DataFrame(rows, columns=columns).to_csv(path, sep="\t", index=False)
    return {"scheme": "predefined", "path": str(path)}


def test_a_list_of_ids_is_compared_whole(tmp_path):
    table = participants(12).rename(index={"sub-001": "sub-1", "sub-010": "sub-10"})
    settings = written(tmp_path, [("sub-1", "test"), ("2", "train"), ("sub-003", "train")], ["participant_id", "role"])
    with pytest.raises(SplitError, match="whom no participants table knows: d0/sub-2"):
        split(settings, table)
    made = split(written(tmp_path, [("1", "test"), ("sub-003", "train")], ["participant_id", "role"]), table)
    roles = made.set_index("participant_id")["role"]
    assert roles["sub-1"] == "test"
    assert roles["sub-10"] == "unused"
    assert (roles == "unused").sum() == 10


def test_a_list_may_have_folds_and_datasets(tmp_path):
    rows = [("d0", "sub-000", "train", "a"), ("d1", "sub-000", "test", "a"), ("d1", "sub-000", "train", "b")]
    settings = written(tmp_path, rows, ["dataset", "participant_id", "role", "fold"])
    made = split(settings, participants(3), participants(3))
    assert made["fold"].unique().tolist() == ["a", "b"]
    used = made[made["role"] != "unused"][["dataset", "participant_id", "role", "fold"]]
    assert sorted(used.itertuples(index=False, name=None)) == sorted(rows)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("sub-000", "learn")], ["participant_id", "role"], "found \\['learn'\\]"),
        ([("sub-000", "train"), ("sub-000", "test")], ["participant_id", "role"], "sub-000 more than once"),
        ([("sub-000",)], ["participant_id"], "lacks the columns \\['role'\\]"),
        ([("sub-000", "train", "pooled")], ["participant_id", "role", "fold"], "fold names"),
    ],
)
def test_a_bad_list_is_one_clear_error(tmp_path, rows, columns, message):
    with pytest.raises(SplitError, match=message):
        split(written(tmp_path, rows, columns), participants(3))


def test_the_chance_of_being_tested_is_the_same_for_everyone():
    table = participants(20, sites=2)
    times = np.zeros(20)
    for seed in range(60):
        made = split({"scheme": "holdout", "test": 0.3, "seed": seed}, table)
        times += (made["role"] == "test").to_numpy()
    # 60 draws of probability 0.3 have a standard deviation of 3.5; 20 people, so 4 of them are far enough.
    assert np.abs(times - 18).max() < 4 * np.sqrt(60 * 0.3 * 0.7)
