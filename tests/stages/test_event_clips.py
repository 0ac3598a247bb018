"""From derivatives and events to clips.parquet: the commands one after the other on a study of a few voxels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_study import SHAPE, TinyStudy, confounds_table, save

from neuropipe.bids.index import read_tsv
from neuropipe.data.clips import labelled_clips
from neuropipe.errors import ConfigError, InputError
from neuropipe.paths import Study
from neuropipe.provenance import sha256
from neuropipe.report import excluded, lineage
from neuropipe.shards.read import Shards
from neuropipe.stages import clips, collect, events, index, parcellate, shard

ROWS = [(10, 20, "face"), (40, 20, "house"), (70, 20, "face"), (100, 20, "house"), (250, 20, "face")]


@pytest.fixture
def study(tmp_path: Path) -> TinyStudy:
    return TinyStudy(tmp_path)


def results(study: TinyStudy) -> Study:
    return Study(study.root / "results" / "tiny")


def write_events(path: Path, rows: list[tuple[Any, Any, str]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["onset", "duration", "trial_type"]).to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


def made(study: TinyStudy, rules: dict[str, Any] | None = None, **sections: Any) -> pd.DataFrame:
    """Run every command from the index to the clips, and return the table."""
    sections.setdefault("clean", {"strategy": "none", "high_pass": None, "low_pass": None})
    sections.setdefault("exclude", {"min_duration_s": None, "max_mean_fd_mm": None, "max_censored_share": None})
    rules = {"delay_s": 4} | (rules or {})
    study.write(n_chunks=1, dataset={"events": rules}, **sections)
    config, out = str(study.root / "config.yaml"), results(study)
    index.run(config=config, dataset="tiny", output=str(out.root / "index" / "tiny"))
    receipt = out.receipt("parcellate", "tiny", 0)
    manifest = str(out.chunk("tiny", 0))
    parcellate.run(config=config, dataset="tiny", manifest=manifest, output=str(receipt), derivatives=None, workers=1)
    packed = out.receipt("shard", "tiny", 0)
    shard.run(config=Path(config), dataset="tiny", receipt=receipt, output=packed)
    collect.run(dataset="tiny", receipts=[packed], output=out.shards("tiny") / "manifest.parquet")
    events.run(config=config, dataset="tiny", manifest=out.manifest("tiny"), output=out.events("tiny"))
    return again(study)


def again(study: TinyStudy) -> pd.DataFrame:
    """Cut clips of what is there already."""
    out = results(study)
    clips.run(
        config=str(study.root / "config.yaml"),
        dataset="tiny",
        events=out.events("tiny"),
        receipts=[out.receipt("parcellate", "tiny", 0)],
        output=out.clips("tiny"),
    )
    return pd.read_parquet(out.clips("tiny"))


def left_out(study: TinyStudy) -> list[tuple[str, str]]:
    merged = excluded.merge(results(study))
    return [(row.run_id, row.reason) for row in merged[merged["stage"] == "clips"].itertuples()]


def test_clips_of_two_people_by_one_table_at_the_top(study: TinyStudy) -> None:
    study.add("01", task="loc", n_volumes=80)
    study.add("02", task="loc", n_volumes=80, session="p", run="1")
    write_events(study.data / "task-loc_events.tsv")
    found = made(study)
    assert found["key"].tolist() == [
        *(f"tiny_sub-01_task-loc_clip-{n:03d}" for n in range(1, 5)),
        *(f"tiny_sub-02_ses-p_task-loc_run-1_clip-{n:03d}" for n in range(1, 5)),
    ]
    first = found.iloc[0].to_dict()
    assert first == {
        "key": "tiny_sub-01_task-loc_clip-001",
        "sample": "tiny_sub-01_task-loc",
        "dataset": "tiny",
        "participant_id": "sub-01",
        "session": "",
        "task": "loc",
        "run": "",
        "condition": "face",
        "label": "face",
        "label_id": 0,
        "onset_s": 10.0,
        "duration_s": 20.0,
        "first_sample": 7,
        "n_samples": 10,
        "censored_share": 0.0,
    }
    assert found["label_id"].tolist() == [0, 1, 0, 1] * 2 and found["session"].tolist()[4:] == ["p"] * 4
    assert left_out(study) == [
        ("sub-01_task-loc", "outside the run"),
        ("sub-02_ses-p_task-loc_run-1", "outside the run"),
    ]
    about = json.loads(results(study).clips("tiny").with_suffix(".json").read_text())
    assert (
        about["Clips"] == 8
        and about["Labels"] == {"face": 4, "house": 4}
        and about["LeftOut"] == {"outside the run": 2}
    )
    receipt = json.loads(results(study).clips_receipt("tiny").read_text())
    assert receipt["products"][0]["sha256"] == sha256(results(study).clips("tiny"))
    assert "1 x face, first at 250 s" in receipt["excluded"][0]["detail"]
    made_by = {one.stage for one in lineage.stages(results(study))[0]}
    assert {"events", "clips"} <= made_by


def test_samples_lie_where_the_clock_says_whatever_was_removed_and_resampled(study: TinyStudy) -> None:
    """The image swings once in 60 s of its own time; the samples of a clip do at onset + delay."""
    t_r, start_time, n_removed, n = 1.5, 0.75, 4, 160
    confounds = confounds_table(np.random.default_rng(0), n)
    for i in range(n_removed):
        confounds[f"non_steady_state_outlier{i:02d}"] = np.eye(n)[i]
    sidecar = {"RepetitionTime": t_r, "StartTime": start_time}
    image = study.add("01", task="loc", n_volumes=n, t_r=t_r, sidecar=sidecar, confounds=confounds)
    swing = np.cos(2 * np.pi * (start_time + t_r * np.arange(n)) / 60)
    save(study.data / image, np.broadcast_to(1000 + 50 * swing, (*SHAPE, n)).astype(np.float32), t_r)
    write_events(study.data / "task-loc_events.tsv", [(31.3, 18, "x"), (95, 30, "y"), (2, 9, "z")])
    found = made(study)
    series = np.asarray(Shards(results(study).shards("tiny")).series(0), dtype=float)[:, 0]
    first_times = []
    for row in found.itertuples():
        phase = np.arange(row.n_samples) * 2.0
        # Least squares over the time of the clip's first sample: where on the swing it lies.
        guesses = np.arange(row.onset_s, row.onset_s + 12, 0.01)
        fit = [
            np.corrcoef(np.cos(2 * np.pi * (g + phase) / 60), series[row.first_sample :][: row.n_samples])[0, 1]
            for g in guesses
        ]
        first_times.append(guesses[np.argmax(fit)])
    # Samples lie at 6.75 + 2 i s; clips begin at 6 (cut at the start), 35.3 and 99 s.
    assert found["label"].tolist() == ["z", "x", "y"] and found["n_samples"].tolist() == [5, 9, 15]
    np.testing.assert_allclose(first_times, [6.75, 36.75, 100.75], atol=0.25)


def test_start_time_of_the_config_comes_before_that_of_the_sidecar(study: TinyStudy) -> None:
    study.add("01", task="loc", n_volumes=80, sidecar={"RepetitionTime": 2.0, "StartTime": 1.0})
    write_events(study.data / "task-loc_events.tsv")
    assert made(study)["first_sample"].iat[0] == 7  # 14 s is first reached at sample 6.5
    assert made(study, {"start_time_s": 8.0})["first_sample"].iat[0] == 3


def test_censored_volumes_are_counted_and_limited(study: TinyStudy) -> None:
    confounds = confounds_table(np.random.default_rng(0), 80)
    confounds.loc[8:15, "framewise_displacement"] = 2.0  # samples 8 to 15: of the first clip (7 to 16) eight
    confounds.loc[22, "framewise_displacement"] = 2.0
    study.add("01", task="loc", n_volumes=80, confounds=confounds)
    write_events(study.data / "task-loc_events.tsv", ROWS[:4])
    clean = {"strategy": "scrubbing", "high_pass": None, "low_pass": None}
    found = made(study, clean=clean)
    censored = Shards(results(study).shards("tiny")).censored(0)
    by_hand = {n: np.isin(np.arange(first, first + 10), censored).mean() for n, first in enumerate((7, 22, 37, 52), 1)}
    assert by_hand[1] >= 0.8 and 0 < by_hand[2] <= 0.5
    assert found["key"].str[-1].tolist() == ["2", "3", "4"]
    assert found["censored_share"].tolist() == [by_hand[2], 0, 0]
    assert left_out(study) == [("sub-01_task-loc", "censored")]
    assert len(made(study, {"max_censored_share": None}, clean=clean)) == 4


def test_runs_whose_events_are_missing_ambiguous_damaged_or_not_fetched(study: TinyStudy) -> None:
    for subject in ("01", "02", "03", "04", "05", "06"):
        study.add(subject, task="loc", run="1", n_volumes=80)
    raw = study.root / "raw"
    name = "sub-{0}/func/sub-{0}_task-loc_run-1_events.tsv"
    write_events(raw / name.format("01"))
    write_events(raw / name.format("02"), [(0, "long", "face")])
    write_events(raw / name.format("03")).unlink()
    (raw / name.format("03")).symlink_to("../.git/annex/objects/nothing")
    write_events(raw / "sub-04/func/sub-04_task-loc_run-1_events.tsv")
    write_events(raw / "sub-04/func/sub-04_task-loc_run-01_events.tsv")
    write_events(raw / name.format("05")).write_text("onset\tduration\tstimulus\n0\t9\tface\n")
    found = made(study, {"path": str(raw)})
    assert found["participant_id"].unique().tolist() == ["sub-01"]
    assert dict(left_out(study)[1:]) == {
        "sub-02_task-loc_run-1": "damaged events",
        "sub-03_task-loc_run-1": "not fetched",
        "sub-04_task-loc_run-1": "ambiguous events",
        "sub-05_task-loc_run-1": "damaged events",
        "sub-06_task-loc_run-1": "no events",
    }
    write_events(raw / name.format("01"), ROWS[:2])
    with pytest.raises(InputError, match=r"(?s)none of 6 recordings has a labelled clip\..*index again"):
        again(study)


def test_resting_runs_and_unknown_conditions_of_the_hcp_preset(
    study: TinyStudy, caplog: pytest.LogCaptureFixture
) -> None:
    study.add("01", task="MOTOR", n_volumes=80)
    study.add("01", task="REST1", n_volumes=80)
    rows = [(10, 12, "lh"), (30, 12, "t"), (50, 3, "cue"), (60, 12, "tail")]
    write_events(study.data / "task-MOTOR_events.tsv", rows)
    found = made(study, {"labels": "hcp7"})
    motor, rest = found[found["task"] == "MOTOR"], found[found["task"] == "REST1"]
    assert motor[["label", "label_id"]].to_numpy().tolist() == [["lh", 7], ["t", 10]]
    assert set(rest["label_id"]) == {19} and rest["duration_s"].between(10, 29).all()
    assert left_out(study) == [("sub-01_task-MOTOR", "unknown condition")]
    assert "no clip of fear, neut, loss" in caplog.text, "a label without a clip is said"
    pd.testing.assert_frame_equal(again(study), found)


def test_changed_events_rewrite_the_clips_and_nothing_else(study: TinyStudy) -> None:
    study.add("01", task="loc", n_volumes=80)
    path = write_events(study.data / "task-loc_events.tsv")
    made(study)
    out = results(study)
    before = {file: file.read_bytes() for file in out.root.rglob("*") if file.is_file()}
    labelled = pd.read_parquet(out.clips("tiny"))
    write_events(path, ROWS[:3])
    index.run(config=str(study.root / "config.yaml"), dataset=None, output=str(out.root / "index"))
    again(study)
    after = {file: file.read_bytes() for file in out.root.rglob("*") if file.is_file()}
    changed = {
        str(file.relative_to(out.root)) for file in before.keys() | after.keys() if before.get(file) != after.get(file)
    }
    # The sidecar of the table of events differs by its time alone, in whole seconds.
    assert changed - {"index/tiny/events.json"} == {
        "index/tiny/events.tsv",
        "shards/tiny/clips.parquet",
        "shards/tiny/clips.json",
        "receipts/tiny/clips.json",
    }
    assert len(pd.read_parquet(out.clips("tiny"))) == len(labelled) - 1
    assert not [
        member
        for tar in out.shards("tiny").glob("*.tar")
        for member in (b"face", b"house")
        if member in tar.read_bytes()
    ]


def test_an_index_without_a_change_touches_nothing(study: TinyStudy) -> None:
    study.add("01", task="loc", n_volumes=80)
    write_events(study.data / "task-loc_events.tsv")
    made(study)
    table = results(study).events("tiny")
    times = table.stat().st_mtime_ns, table.with_suffix(".json").stat().st_mtime_ns
    index.run(config=str(study.root / "config.yaml"), dataset=None, output=str(results(study).root / "index"))
    assert (table.stat().st_mtime_ns, table.with_suffix(".json").stat().st_mtime_ns) == times
    row = read_tsv(table).iloc[0]
    assert row["events"] == "task-loc_events.tsv" and row["reason"] == "n/a"


def test_a_link_to_the_derivatives_does_not_lead_astray(study: TinyStudy) -> None:
    study.add("01", task="loc", n_volumes=80)
    write_events(study.root / "raw" / "task-loc_events.tsv")
    deep = study.root / "disk" / "deep" / "fmriprep"
    deep.parent.mkdir(parents=True)
    study.data.rename(deep)
    study.data.symlink_to(deep)
    assert len(made(study, {"path": str(study.root / "raw")})) == 4


def test_mistakes_are_told_in_one_line(study: TinyStudy) -> None:
    study.add("01", task="loc", n_volumes=80)
    with pytest.raises(
        InputError, match=r"none of 1 recordings has a labelled clip.\n  1 x no events: expected an events"
    ):
        made(study)
    with pytest.raises(InputError, match=r"No folder .*nowhere; .* Correct datasets\.tiny\.events\.path"):
        made(study, {"path": str(study.root / "nowhere")})
    study.write()
    with pytest.raises(ConfigError, match=r"datasets\.tiny has no section events; add one"):
        again(study)


def test_labelled_clips_are_read_from_the_shards(study: TinyStudy) -> None:
    study.add("01", task="loc", n_volumes=80)
    study.add("02", task="loc", n_volumes=80)
    write_events(study.data / "task-loc_events.tsv", [(10, 20, "face"), (150, 20, "house")])
    made(study)
    shards = Shards(results(study).shards("tiny"))
    cut = labelled_clips(shards, 8)
    assert cut.series.shape == (4, 8, 5) and cut.label.tolist() == [0, 1, 0, 1]
    assert cut.person.tolist() == ["sub-01", "sub-01", "sub-02", "sub-02"] and cut.valid_region.all()
    np.testing.assert_array_equal(cut.series[2], shards.series(1)[7:15].astype(np.float32))
    assert cut.valid_time.sum(axis=1).tolist() == [8, 3, 8, 3] and (cut.series[1, 3:] == 0).all()
    assert labelled_clips(shards, 8, people=["sub-02"]).person.tolist() == ["sub-02"] * 2
    with pytest.raises(InputError, match="None of the chosen people"):
        labelled_clips(shards, 8, people=["sub-09"])
    shards.manifest["n_timepoints"] = 60
    with pytest.raises(InputError, match="made from other shards"):
        labelled_clips(shards, 8)
