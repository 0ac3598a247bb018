"""``neuropipe split``: the frozen table and its audit, or nothing at all."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from judged_study import CONFIG, participants, write_study

from neuropipe import config as configuration
from neuropipe.errors import ConfigError, InputError, SplitError
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.stages import split


def run(root, config, name="main"):
    study = Study(root)
    split.run(config=config, split=name, shards=[study.shards("toy")], output=study.split(name))
    return study.split(name)


@pytest.mark.parametrize("name", ["main", "sites", "folds"])
def test_a_split_is_written_with_its_audit(tmp_path, name):
    folder = run(tmp_path, write_study(tmp_path), name)
    table = pd.read_parquet(folder / "splits.parquet")
    audit = read_json(folder / "audit.json")
    assert audit["n_people"] == 60
    assert len(audit["folds"]) == table["fold"].nunique()
    assert audit["scheme"] == CONFIG["splits"][name]["scheme"]
    assert list(audit["Inputs"]) == ["toy/manifest.parquet"]
    assert (table.groupby(["fold"]).size() == 60).all()


@pytest.mark.parametrize("scheme", ["kfold", "repeated_kfold"])
def test_folds_keep_the_classes_that_tasks_ask_for(tmp_path, scheme):
    content = copy.deepcopy(CONFIG)
    content["splits"]["main"] = {"scheme": scheme, "n_folds": 5, "n_repeats": 2}
    config = write_study(tmp_path, config=content)
    assert configuration.load(config).stratified("main").stratify == ["diagnosis"]
    table = pd.read_parquet(run(tmp_path, config) / "splits.parquet")
    people = pd.read_csv(Study(tmp_path).participants("toy"), sep="\t")
    tested = table[table["role"] == "test"].merge(people[["participant_id", "diagnosis"]])
    assert set(tested.groupby(["fold", "site", "diagnosis"]).size()) == {2}  # 60 people, 3 sites, 2 classes, 5 folds


def test_stratification_is_left_out_where_it_is_named_so_or_not_of_folds(tmp_path):
    content = copy.deepcopy(CONFIG)
    content["splits"]["folds"]["stratify"] = []
    content["tasks"]["age"]["split"] = "folds"
    content["splits"]["main"] = {"scheme": "holdout", "test": 0.3}
    study = configuration.load(write_study(tmp_path, config=content))
    assert [study.stratified(name).stratify for name in ("folds", "main")] == [[], []]


def test_the_same_split_has_the_same_bytes(tmp_path):
    config = write_study(tmp_path)
    first = (run(tmp_path, config) / "splits.parquet").read_bytes()
    assert (run(tmp_path, config) / "splits.parquet").read_bytes() == first


def test_people_without_a_recording_are_not_in_the_split(tmp_path):
    config = write_study(tmp_path)
    path = Study(tmp_path).participants("toy")
    path.write_text(path.read_text() + "sub-9999\tA\tpatient\t30\tF\n")
    table = pd.read_parquet(run(tmp_path, config) / "splits.parquet")
    assert "sub-9999" not in set(table["participant_id"])


def test_a_leak_leaves_nothing_behind(tmp_path):
    config = write_study(tmp_path)
    path = Study(tmp_path).shards("toy") / "manifest.parquet"
    manifest = pd.read_parquet(path)
    manifest["sha256"] = manifest["sha256"].iloc[0]
    manifest.to_parquet(path)
    with pytest.raises(SplitError, match="one recording on two sides"):
        run(tmp_path, config)
    assert not list(Study(tmp_path).split("main").glob("*"))


def test_a_label_column_of_one_class_is_one_clear_error(tmp_path):
    people = participants(np.random.default_rng(0)).assign(diagnosis="patient")
    config = write_study(tmp_path, people=people)
    with pytest.raises(InputError, match=r"tasks.diagnosis: .*needs two classes.*found only 'patient'"):
        run(tmp_path, config)


def test_a_site_without_one_of_the_classes_cannot_be_left_out(tmp_path):
    people = participants(np.random.default_rng(0))
    people.loc[people["site"] == "B", "diagnosis"] = "control"
    config = write_study(tmp_path, people=people)
    with pytest.raises(SplitError, match="fold B: nobody with diagnosis-sites = patient on the test side"):
        run(tmp_path, config, "sites")


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"No split 'mian'.*known are folds, main, sites"):
        run(tmp_path, write_study(tmp_path), "mian")


def test_an_unknown_column_to_stratify_by(tmp_path):
    config = copy.deepcopy(CONFIG)
    config["splits"]["main"]["stratify"] = ["diagnossi"]
    with pytest.raises(InputError, match=r"'diagnossi'.*Did you mean 'diagnosis'"):
        run(tmp_path, write_study(tmp_path, config=config))
