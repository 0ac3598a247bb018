"""Grey-matter maps from CAT12's folder to the report: baselines that fit, voxels as reference, linked people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_maps import TinyMaps, tissue

from neuropipe.errors import ConfigError, InputError
from neuropipe.paths import Study
from neuropipe.stages import baselines, evaluate, report, split

N = 40
TASK = {"datasets": ["tiny"], "split": "main", "confounds": ["tiv_ml"]}
SECTIONS = {
    "splits": {"main": {"scheme": "kfold", "n_folds": 4}},
    "tasks": {
        "age": {"target": "age", "kind": "regression", **TASK},
        "old": {"target": "old", "kind": "binary", "positive": "yes", **TASK},
    },
    "evaluate": {"bootstrap": 200, "permutations": 60, "learning_curve_draws": 2},
}


def prepared(root: Path, **sections) -> tuple[TinyMaps, Path, Study]:
    """Forty people who lose a hundredth of their grey matter each year, from images to shards."""
    study = TinyMaps(root)
    for n in range(N):
        study.add(f"{n:02d}", tissue(f"{n:02d}") * (1 - n / 100), tiv_ml=1400 + (n % 7))
    study.line(**(SECTIONS | sections))
    path = Study(study.results).participants("tiny")
    people = pd.read_csv(path, sep="\t").assign(old=["yes" if n >= N // 2 else "no" for n in range(N)])
    people.to_csv(path, sep="\t", index=False)
    return study, root / "config.yaml", Study(study.results)


def answered(config: Path, study: Study, task: str) -> pd.DataFrame:
    shards = [study.shards("tiny")]
    baselines.run(
        config=config, task=task, split_dir=study.split("main"), shards=shards, embeddings=[],
        output=study.task(task, "baselines"),
    )  # fmt: skip
    return pd.read_parquet(study.task(task, "baselines") / "predictions.parquet")


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> tuple[Path, Study]:
    _, config, study = prepared(tmp_path_factory.mktemp("judged"))
    split.run(config=config, split="main", shards=[study.shards("tiny")], output=study.split("main"))
    for task in ("age", "old"):
        answered(config, study, task)
    predictions = sorted(study.root.glob("tasks/*/*/predictions.parquet"))
    evaluate.run(
        config=config, predictions=predictions, splits=[study.split("main")], output=study.root / "metrics.parquet"
    )
    return config, study


def test_each_task_gets_the_baselines_that_fit_maps(judged):
    _, study = judged
    metrics = pd.read_parquet(study.root / "metrics.parquet")
    assert set(metrics["system"]) == {"majority", "confounds", "voxels", "regions"}
    assert metrics["reference"].dropna().unique().tolist() == ["voxels"]
    assert set(metrics["atlas_id"]) == {"toy"}
    assert metrics.loc[metrics["system"] == "confounds", "confound_set"].eq("tiv_ml").all()


def test_the_planted_loss_is_found_and_shuffled_labels_are_not(judged):
    _, study = judged
    metrics = pd.read_parquet(study.root / "metrics.parquet")
    primary = metrics[(metrics["fold"] == "mean") & metrics["metric"].isin(["mae", "auroc"])]
    value = primary.drop_duplicates("run_id").set_index("run_id")
    assert value.loc["age_voxels_ridge", "value"] < 2 < 8 < value.loc["age_majority_baseline", "value"]
    assert value.loc["age_regions_ridge", "value"] < 2
    assert value.loc["old_voxels_logistic", "value"] > 0.95
    assert value.loc["old_voxels_logistic", "p_perm"] == pytest.approx(1 / 61)
    assert value.loc["age_confounds_ridge", "p_perm"] > 0.05
    assert value.loc["age_confounds_ridge", "delta_ci_low"] > 0


def test_the_report_of_maps_is_made(judged):
    config, study = judged
    report.run(config=config, study=study.root, output=study.report)
    page = study.report.read_text()
    assert "Linear model of voxels" in page
    assert "No model was trained for age" in page
    assert "Functional connectivity" not in page


def test_without_atlases_there_is_no_baseline_of_regions(tmp_path):
    _, config, study = prepared(tmp_path, atlases=False)
    split.run(config=config, split="main", shards=[study.shards("tiny")], output=study.split("main"))
    table = answered(config, study, "age")
    assert set(table["system"]) == {"majority", "confounds", "voxels"}
    assert set(table["atlas_id"]) == {"n/a"}
    assert len(table) == 3 * N


@pytest.mark.parametrize(
    ("names", "atlases", "expected"),
    [
        (["voxels", "fc"], True, "evaluate.baselines: fc fits no task: expected datasets of series, found volume"),
        (["regions"], False, "evaluate.baselines: regions fits no task: expected datasets of volume and atlases"),
    ],
)
def test_a_baseline_that_fits_no_task_is_a_mistake(tmp_path, names, atlases, expected):
    study = TinyMaps(tmp_path)
    study.add("01")
    config = study.write(atlases=atlases, **SECTIONS | {"evaluate": {"baselines": names}})
    with pytest.raises(ConfigError, match=expected):
        split.run(config=config, split="main", shards=[], output=tmp_path / "split")


def test_a_confound_that_maps_do_not_have_is_named(tmp_path):
    _, config, paths = prepared(tmp_path)
    content = yaml.safe_load(config.read_text())
    content["tasks"]["age"]["confounds"] = ["mean_fd"]
    config.write_text(yaml.safe_dump(content))
    split.run(config=config, split="main", shards=[paths.shards("tiny")], output=paths.split("main"))
    with pytest.raises(InputError, match=r"The confound 'mean_fd' is not known: .* found volume recordings of tiny"):
        answered(config, paths, "age")


def test_families_known_to_the_dataset_that_names_the_people_stay_together(tmp_path):
    study, config, paths = prepared(tmp_path)
    content = yaml.safe_load(config.read_text())
    content["datasets"]["tiny"]["people_of"] = "bold"
    content["datasets"]["bold"] = {"kind": "series", "path": "nowhere", "roles": {"kin": "family"}}
    config.write_text(yaml.safe_dump(content))
    bold = paths.participants("bold")
    bold.parent.mkdir(parents=True)
    families = pd.DataFrame({"participant_id": study.people, "family": np.arange(N) % 10})
    families.to_csv(bold, sep="\t", index=False)
    split.run(config=config, split="main", shards=[paths.shards("tiny")], output=paths.split("main"))
    table = pd.read_parquet(paths.split("main") / "splits.parquet")
    assert table["person"].nunique() == 10
    assert (table.groupby(["fold", "person"])["role"].nunique() == 1).all()
