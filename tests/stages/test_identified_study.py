"""Second sessions from shards to a rate of recognised people: every recording is embedded, and finds its owner."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import yaml
from judged_study import CONFIG, N_REGIONS, N_TIMES, write_study

from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.shards.manifest import from_rows, write_parquet
from neuropipe.shards.sample import Sample, pack
from neuropipe.shards.write import write_tar
from neuropipe.stages import baselines, embed, evaluate, pretrain, probe, split

N_TWICE = 20
TOY = {"family": "toys.correlations", "train": {"n_steps": 2, "batch_size": 8, "lr": 0.001}, "n_clips": 2}


def write_sessions(study: Study) -> None:
    """Replace the shards: everyone has a coupling of their own, and the first `N_TWICE` people a second session."""
    rng = np.random.default_rng(0)
    people = pd.read_csv(study.participants("toy"), sep="\t", dtype=str)["participant_id"]
    folder, samples = study.shards("toy"), []
    for number, person in enumerate(people):
        mixing = rng.standard_normal((N_REGIONS, N_REGIONS))
        for session in ["01", "02"][: 1 + (number < N_TWICE)]:
            values = rng.standard_normal((N_TIMES, N_REGIONS)) @ mixing
            about = {"dataset": "toy", "participant_id": person, "run_id": f"{person}_ses-{session}_task-rest"}
            about |= {"t_r": 2.0, "quality": {"mean_fd_mm": 0.1}, "entities": {"session": session}}
            series = (values - values.mean(0)) / values.std(0)
            samples.append(Sample(f"toy_{about['run_id']}", *pack(series, "float16"), about))
    write_parquet(folder / "manifest.parquet", from_rows(write_tar(folder / "chunk-00-000.tar", samples)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with second sessions, evaluated."""
    root = tmp_path_factory.mktemp("identified")
    content = copy.deepcopy(CONFIG)
    content["evaluate"] |= {"permutations": 4, "baselines": ["fc", "random_weights"]}
    content["pretrain"] = {"tiny": {"datasets": ["toy"], "recipe": str(root / "tiny.yaml"), "splits": ["main"]}}
    (root / "tiny.yaml").write_text(yaml.safe_dump(TOY))
    config, study = write_study(root, config=content), Study(root)
    write_sessions(study)
    shards, receipt = [study.shards("toy")], study.model("tiny", 0) / "receipt.json"
    split.run(config=config, split="main", shards=shards, output=study.split("main"))
    of = {"config": config, "shards": shards, "threads": 1}
    pretrain.run(**of, recipe="tiny", seed=0, splits=[study.split("main")], output=receipt)
    embed.run(**of, models=receipt, output=study.embeddings("tiny", 0) / "receipt.json")
    about = {"config": config, "task": "diagnosis", "split_dir": study.split("main"), "shards": shards}
    for stage, name in ((probe, "probe"), (baselines, "baselines")):
        stage.run(**about, embeddings=[study.embeddings("tiny", 0)], output=study.task("diagnosis", name))
    parts = [study.task("diagnosis", name) / "predictions.parquet" for name in ("probe", "baselines")]
    evaluate.run(predictions=parts, config=config, splits=[study.split("main")], output=root / "metrics.parquet")
    return study


def test_recordings_are_kept_of_those_who_have_several(study):
    folder = study.embeddings("tiny", 0) / "main" / "0"
    for weights in ("trained", "random"):
        each = pd.read_parquet(folder / f"{weights}-recordings.parquet")
        assert len(each) == 2 * N_TWICE
        people = pd.read_parquet(folder / f"{weights}.parquet").set_index("participant_id")
        mean = each.groupby("participant_id")[["e0", "e1"]].mean()
        np.testing.assert_allclose(people.loc[mean.index, ["e0", "e1"]], mean, rtol=1e-4, atol=1e-5)


def test_people_are_recognised_far_above_chance(study):
    rows = pd.read_parquet(study.root / "metrics.parquet").query("metric == 'identification_top1'")
    assert set(rows["system"]) == {"fc", "tiny", "tiny (random weights)"}
    assert rows["null_mean"].to_numpy() == pytest.approx(1 / N_TWICE)
    assert rows.groupby("system")["value"].first()["fc"] > 0.9
    assert (rows["value"] > 0.5).all()


def test_only_test_people_are_counted(study):
    identified = tables.read([study.root / "identified.parquet"], tables.IDENTIFIED, "identified")
    frozen = pd.read_parquet(study.split("main") / "splits.parquet")
    tested = set(frozen.loc[frozen["role"] == "test", "participant_id"])
    twice = set(sorted(frozen["participant_id"].unique())[:N_TWICE])
    assert set(identified["participant_id"]) == tested & twice
    assert set(identified["n_candidates"]) == {N_TWICE}
