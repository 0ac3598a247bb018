"""State decoding from shards to the page: planted states are found, persons stay apart, clips are judged once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from decoded_study import N_CLIPS, N_PEOPLE, STATES, config, write_models, write_study
from safetensors.torch import load_file

from neuropipe import config as configuration
from neuropipe.errors import ConfigError, SplitError
from neuropipe.paths import Study
from neuropipe.stages import decode, evaluate, finetune, report, split

SYSTEMS = {"majority", "confounds", "fc", "mean_pattern"}
NETWORKS = {"tiny", "tiny (random weights)"}


def decoded(path: Path, models: list[Path] | None = None) -> Study:
    """Run decode and evaluate on a study that is split already."""
    study = Study(path.parent)
    folder = study.task("state", "decoding")
    decode.run(
        config=path,
        task="state",
        split_dir=study.split("main"),
        shards=[study.shards("toy")],
        models=models or [],
        threads=1,
        output=folder,
    )
    made = [folder / "decoding.parquet"]
    splits = [study.split("main")]
    evaluate.run(predictions=[], decoding=made, config=path, splits=splits, output=study.root / "metrics.parquet")
    return study


def divided(path: Path) -> pd.DataFrame:
    """Split a study, and return the table."""
    study = Study(path.parent)
    split.run(config=path, split="main", shards=[study.shards("toy")], output=study.split("main"))
    return pd.read_parquet(study.split("main") / "splits.parquet")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """A holdout of 20 people, 19 with clips, with a network that nobody trained."""
    path = write_study(tmp_path_factory.mktemp("decode") / "decoded")
    return decoded(path, [write_models(path.parent, divided(path))])


def metrics(study: Study, metric: str = "balanced_accuracy") -> pd.DataFrame:
    table = pd.read_parquet(study.root / "metrics.parquet")
    return table[table["metric"] == metric].drop_duplicates("run_id").set_index("system")


def test_planted_states_are_found_and_nothing_is_found_without_them(study: Study) -> None:
    found = metrics(study)
    assert set(found.index) == SYSTEMS | NETWORKS
    assert found.loc["mean_pattern", "value"] > 0.9 and found.loc["mean_pattern", "p_perm"] < 0.01
    for name in NETWORKS:
        assert found.loc[name, "value"] > 0.6 and found.loc[name, "p_perm"] < 0.01
    for name in ("majority", "confounds"):
        assert found.loc[name, "value"] == pytest.approx(0.25) and found.loc[name, "p_perm"] == 1
    assert found["ci_low"].le(found["value"]).all() and found["ci_high"].ge(found["value"]).all()


def test_every_clip_of_a_test_person_is_judged_once_and_by_decoders_of_other_people(study: Study) -> None:
    rows = pd.read_parquet(study.root / "decoding.parquet")
    clips = pd.read_parquet(study.clips("toy")).set_index("key")
    sides = pd.read_parquet(study.split("main") / "splits.parquet").set_index("participant_id")["role"]
    wanted = set(clips.index[clips["participant_id"].map(sides) == "test"])
    for _, own in rows.groupby("run_id"):
        assert own["clip"].is_unique and set(own["clip"]) == wanted
        assert (own["label"].to_numpy() == clips.loc[own["clip"], "label"]).all()
        assert (sides[own["participant_id"]] == "test").all()
    said = np.stack(rows["probability"])
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-5)
    assert (said.argmax(axis=1) == rows["yhat"]).all()
    assert [STATES[k] for k in rows["yhat"]] == rows["predicted"].tolist()


def test_people_without_clips_are_told_of_and_not_counted(study: Study) -> None:
    left = pd.read_csv(study.task("state", "decoding") / "excluded.tsv", sep="\t")
    assert left["participant_id"].tolist() == [f"sub-{N_PEOPLE - 1:02d}"]
    assert left["detail"].tolist() == ["a labelled clip is missing"]
    sides = pd.read_parquet(study.split("main") / "splits.parquet")
    having = sides[sides["participant_id"] != f"sub-{N_PEOPLE - 1:02d}"]["role"].value_counts()
    found = metrics(study)
    assert set(found["n_train"]) == {having["train"]} and set(found["n_test"]) == {having["test"]}


def test_more_people_teach_more_and_every_system_learns_from_the_same(study: Study) -> None:
    grid = pd.read_parquet(study.root / "efficiency.parquet")
    assert set(grid["system"]) == (SYSTEMS | NETWORKS) - {"majority"}
    n_train = int(metrics(study)["n_train"].iloc[0])
    draws = grid[grid["metric"] == "accuracy"].groupby(["system", "n_people"])["draw"].nunique().unstack()
    assert draws.columns.tolist() == [1, 3, 6, n_train]
    assert (draws[[1, 3, 6]] == 2).all(axis=None) and (draws[n_train] == 1).all()
    assert (grid["n_clips"] == grid["n_people"] * N_CLIPS).all()
    curve = (
        grid[(grid["metric"] == "balanced_accuracy") & (grid["system"] == "tiny")].groupby("n_people")["value"].mean()
    )
    assert curve[n_train] == pytest.approx(metrics(study).loc["tiny", "value"])
    assert curve[n_train] > curve[1] + 0.05


def test_metrics_follow_from_the_joined_table_alone(study: Study, tmp_path: Path) -> None:
    again = tmp_path / "metrics.parquet"
    evaluate.run(predictions=[], decoding=[study.root / "decoding.parquet"], output=again)
    pd.testing.assert_frame_equal(pd.read_parquet(again), pd.read_parquet(study.root / "metrics.parquet"))
    evaluate.run(predictions=[study.root / "predictions.parquet"], output=again)  # clips lie beside people
    pd.testing.assert_frame_equal(pd.read_parquet(again), pd.read_parquet(study.root / "metrics.parquet"))


def test_the_audit_knows_whom_networks_learned_from(study: Study) -> None:
    checks = json.loads((study.root / "leakage.json").read_text())["checks"]
    assert {check["check"] for check in checks} == {"no test person in pretraining", "predictions follow the split"}
    assert all(check["passed"] for check in checks)


def test_a_network_that_saw_test_people_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path / "decoded")
    table = divided(path)
    test = table.loc[table["role"] == "test", "participant_id"].tolist()
    with pytest.raises(SplitError, match="pretraining saw 1 test people"):
        decoded(path, [write_models(path.parent, table, extra=test[:1])])


def test_folds_cover_everyone_once_and_nothing_planted_is_nothing_found(tmp_path: Path) -> None:
    content = config({"scheme": "kfold", "n_folds": 4}, training_people=[])
    content["evaluate"]["baselines"] = ["majority", "mean_pattern"]
    path = write_study(tmp_path / "decoded", content, step=0.0)
    divided(path)
    study = decoded(path)
    rows = pd.read_parquet(study.root / "decoding.parquet")
    assert rows.groupby("run_id")["clip"].agg(["nunique", "size"]).eq((N_PEOPLE - 1) * N_CLIPS).all(axis=None)
    assert pd.read_parquet(study.root / "efficiency.parquet").empty
    table = pd.read_parquet(study.root / "metrics.parquet")
    mean = table[(table["system"] == "mean_pattern") & (table["metric"] == "balanced_accuracy")].set_index("fold")
    assert set(mean.index) == {"0", "1", "2", "3", "mean", "pooled"}
    assert mean.loc["mean", "ci_method"] == "corrected_resampled"
    assert abs(mean.loc["mean", "value"] - 0.25) < 0.08 and mean.loc["mean", "p_perm"] > 0.02


RECIPE = """
family: semantoks
train: {n_steps: 1, batch_size: 2, lr: 0.1}
finetune: {n_steps: 60, batch_size: 32, lr: 0.01, warmup: 0.1, evaluate_every: 10, log_every: 20, FREEZE}
"""


def tuned(root: Path, monkeypatch, freeze: str = "drop_rate: 0.0", **task) -> tuple[Study, Path]:
    """Fine-tune the untrained network for the states, and evaluate it; return the study and the networks' folder."""
    monkeypatch.chdir(root)
    path = write_study(root / "decoded", config(**task))
    (root / "tiny.yaml").write_text(RECIPE.replace("FREEZE", freeze))
    study, models = Study(path.parent), write_models(path.parent, divided(path))
    folder = study.task("state", "decoding-tiny_seed-0")
    places = {"shards": [study.shards("toy")], "split_dir": study.split("main"), "models": models, "output": folder}
    finetune.run(config=path, task="state", recipe="tiny", seed=0, threads=1, **places)
    output = study.root / "metrics.parquet"
    evaluate.run(predictions=[], decoding=[folder / "decoding.parquet"], config=path, output=output)
    return study, study.finetuned("state", "tiny", 0) / "main" / "0"


def test_whole_networks_learn_the_states_and_are_kept(tmp_path: Path, monkeypatch) -> None:
    study, folder = tuned(tmp_path, monkeypatch, training_people=[3])
    found = metrics(study)
    assert set(found.index) == {"tiny", "tiny (from scratch)"} and (found["readout"] == "finetune").all()
    assert (found["value"] > 0.75).all()
    grid = pd.read_parquet(study.root / "efficiency.parquet")
    assert set(grid["n_people"]) == {3, int(found["n_train"].iloc[0])}
    about = json.loads((folder / "config.json").read_text())
    assert about["labels"] == list(STATES) and about["validation_loss"] < np.log(4)
    assert (folder / "people-3" / "model.safetensors").is_file() and not (folder / "checkpoints").exists()


def test_all_but_the_head_is_held_still_where_the_recipe_says_so(tmp_path: Path, monkeypatch) -> None:
    study, folder = tuned(tmp_path, monkeypatch, "freeze: encoder, from_scratch: false", training_people=[])
    before = load_file(study.model("tiny", 0) / "main" / "0" / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in before.items() if name.startswith("teacher.encoder.")}
    same = [name for name, value in kept.items() if torch.equal(value, after[name.removeprefix("teacher.")])]
    assert len(same) == len(kept) > 10
    assert metrics(study).loc["tiny", "value"] > 0.5


def test_the_page_shows_matrices_people_and_the_curve(study: Study) -> None:
    report.run(config=study.root / "config.yaml", study=study.root, output=study.report)
    page = study.report.read_text()
    assert "Which state is a person in?" in page and "clips of" in page
    for words in (
        "Clips told rightly by Mean pattern of regions",
        "Share of each test person",
        "Balanced accuracy from 1",
    ):
        assert words in page, words
    assert "No model was trained" not in page


def test_decoding_needs_events() -> None:
    content = config()
    content["datasets"]["toy"].pop("events")
    with pytest.raises(ConfigError, match=r"decoding needs labelled clips, but datasets\.toy has no section events"):
        configuration.parse(content)
