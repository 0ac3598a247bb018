"""A study with ComBat from probe to metrics: twins of every system, the audit, and the same numbers without a model."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
from judged_study import CONFIG, write_embeddings, write_study

from neuropipe.errors import SplitError
from neuropipe.evaluate import leakage, tables
from neuropipe.evaluate.embed import mean_of_people, with_several
from neuropipe.paths import Study
from neuropipe.provenance import read_json, write_json
from neuropipe.stages import baselines, evaluate, probe, split

ASKED = {"harmonise": "combat", "harmonise_keep": ["age", "sex"], "baselines": ["majority", "confounds", "fc"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The judged study with ComBat, its tables and metrics; written once."""
    config = copy.deepcopy(CONFIG)
    config["evaluate"] |= ASKED
    root = tmp_path_factory.mktemp("harmonised")
    written, study = write_study(root, config=config), Study(root)
    shards, folder = [study.shards("toy")], study.split("main")
    split.run(config=written, split="main", shards=shards, output=folder)
    embeddings = [write_embeddings(root, {"main": pd.read_parquet(folder / "splits.parquet")})]
    about = {"config": written, "task": "diagnosis", "split_dir": folder, "shards": shards, "embeddings": embeddings}
    probe.run(**about, output=study.task("diagnosis", "probe"))
    baselines.run(**about, output=study.task("diagnosis", "baselines"))
    evaluate.run(
        predictions=[study.task("diagnosis", part) / "predictions.parquet" for part in ("probe", "baselines")],
        config=written,
        splits=[folder],
        output=root / "metrics.parquet",
    )
    return study


def metrics(study: Study) -> pd.DataFrame:
    return pd.read_parquet(study.root / "metrics.parquet")


def test_what_reads_features_answers_twice(study):
    table = tables.read([study.root / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    harmonised = table[table["harmonisation"] == "combat"]
    assert set(harmonised["system"]) == {"recipe (ComBat)", "fc (ComBat)"}
    assert set(table.loc[table["harmonisation"].isna(), "system"]) == {"recipe", "fc", "majority", "confounds"}
    rows = metrics(study)
    assert set(rows.loc[rows["system"] == "recipe (ComBat)", "harmonisation"]) == {"combat"}


def test_the_twin_before_is_a_reference(study):
    rows = metrics(study)
    aurocs = rows[(rows["metric"] == "auroc") & (rows["system"] == "recipe (ComBat)")].set_index("reference")
    assert set(aurocs.index) == {"fc", "recipe"}
    before = rows[(rows["metric"] == "auroc") & (rows["system"] == "recipe")]["value"].iloc[0]
    assert aurocs.loc["recipe", "delta"] == pytest.approx(aurocs.loc["recipe", "value"] - before)


def test_sites_and_strangers_are_rows_of_metrics(study):
    rows = metrics(study)
    sites = rows[rows["metric"] == "site_balanced_accuracy"]
    assert set(sites["system"]) == {"recipe", "recipe (ComBat)", "fc", "fc (ComBat)"}
    assert sites["null_mean"].to_numpy() == pytest.approx(1 / 3)
    assert rows.loc[rows["metric"] == "share_far", "system"].tolist() == ["recipe"]
    assert set(rows.loc[rows["metric"].isin(["share_far"]), "run_id"]) <= set(rows["run_id"])


def test_without_any_model_the_metrics_are_the_same(study, tmp_path):
    evaluate.run(predictions=[study.root / "predictions.parquet"], output=tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), metrics(study), check_like=True)


def test_the_audit_names_every_transform(study):
    checks = read_json(study.root / "leakage.json")["checks"]
    inside = [one for one in checks if one["check"] == "no transform fitted outside the training side"]
    assert {one["where"] for one in inside} == {
        "diagnosis_recipe_logistic_seed-0",
        "diagnosis_recipe-ComBat_logistic_seed-0",
        "diagnosis_fc_logistic",
        "diagnosis_fc-ComBat_logistic",
    }
    learned = [one for one in checks if one["check"] == "every transform was fitted on people of the training side"]
    assert [one["where"] for one in learned] == ["diagnosis, probe", "diagnosis, baselines"]
    assert all(one["passed"] for one in (*inside, *learned))


def test_an_embedding_that_tells_the_scanner_better_than_the_reference_is_named(study):
    rows = metrics(study)
    asked = rows["system"].eq("recipe") & rows["metric"].eq("site_balanced_accuracy")
    (check,) = leakage.sites(rows)
    assert check["where"] == "diagnosis_recipe_logistic_seed-0"
    assert check["passed"] and check["value"] == rows.loc[asked, "value"].item()
    for low, named in ((0.1, True), (-0.1, False)):
        rows.loc[asked, "delta_ci_low"] = low
        (check,) = leakage.sites(rows)
        assert check["expected"].endswith("exceeds") == named


def test_a_test_person_among_those_fitted_on_is_found(study, tmp_path):
    about = read_json(study.task("diagnosis", "probe") / "transforms.json")
    frozen = pd.read_parquet(study.split("main") / "splits.parquet")
    tested = frozen[frozen["role"] == "test"].iloc[0]
    about["fitted_on"][0]["people"].append(f"{tested['dataset']}/{tested['participant_id']}")
    write_json(tmp_path / "transforms.json", about)
    *_, check = leakage.transforms([tmp_path / "transforms.json"], {"main": frozen})
    assert (check["value"], check["passed"]) == (1, False)
    assert leakage.transforms([tmp_path / "nothing.json"], {}) == []


def test_everyone_has_a_place(study):
    places = pd.read_parquet(study.root / "places.parquet")
    assert set(places["system"]) == {"recipe", "recipe (ComBat)", "fc", "fc (ComBat)"}
    assert np.isfinite(places[["x", "y"]].to_numpy()).all()


def test_a_copy_under_another_id_stops_the_split(tmp_path):
    """The whole way from shards: one recording saved again for another person, in another unit and shorter."""
    written, study = write_study(tmp_path), Study(tmp_path)
    copied_into_another_person(study)
    with pytest.raises(SplitError, match="toy/sub-0001 and toy/sub-0002 look like one person, on two sides"):
        for seed in range(20):  # until the two are divided
            config = copy.deepcopy(CONFIG)
            config["splits"]["main"] |= {"seed": seed, "stratify": []}
            written.write_text(json.dumps(config))
            split.run(config=written, split="main", shards=[study.shards("toy")], output=study.split("main"))


def copied_into_another_person(study: Study) -> None:
    from neuropipe.shards.manifest import from_rows, write_parquet
    from neuropipe.shards.read import Shards
    from neuropipe.shards.sample import Sample, pack
    from neuropipe.shards.write import write_tar

    folder = study.shards("toy")
    bank, samples = Shards(folder), []
    for i, row in bank.manifest.iterrows():
        values = np.array(bank.series(i), dtype=float)
        if row["participant_id"] == "sub-0002":
            source = bank.manifest.index[bank.manifest["participant_id"] == "sub-0001"][0]
            values = 2.5 * np.array(bank.series(source), dtype=float)[7:] + 1
        facts = {"dataset": "toy", "participant_id": row["participant_id"], "run_id": row["run_id"], "t_r": 2.0}
        samples.append(Sample(row["key"], *pack(values, "float16"), facts | {"quality": {"mean_fd_mm": 0.1}}))
    write_parquet(folder / "manifest.parquet", from_rows(write_tar(folder / "chunk-00-000.tar", samples)))


def test_recordings_of_people_who_have_several_are_kept():
    ids = ["sub-1", "sub-1", "sub-10"]
    each = pd.DataFrame({"dataset": "toy", "participant_id": ids, "key": list("abc"), "e0": [1.0, 3.0, 5.0]})
    assert mean_of_people(each)[["participant_id", "n_recordings", "e0"]].to_numpy().tolist() == [
        ["sub-1", 2, 2.0],
        ["sub-10", 1, 5.0],
    ]
    assert with_several(each)["key"].tolist() == ["a", "b"]
