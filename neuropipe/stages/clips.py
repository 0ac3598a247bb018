"""Label windows of a dataset's recordings by their events: the clips that a state decoder learns from."""

from __future__ import annotations

import argparse
import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe import config as configuration
from neuropipe.bids import events as event_files
from neuropipe.bids.index import exclusion, read_tsv, summary
from neuropipe.bids.series import data_root
from neuropipe.config import Events
from neuropipe.errors import InputError, RunExcluded
from neuropipe.locks import lock
from neuropipe.paths import Study
from neuropipe.provenance import describe, fingerprint, read_json, sha256, write_json
from neuropipe.shards import manifest
from neuropipe.shards.sample import CLIP_COLUMNS
from neuropipe.signals.windows import Clock, Windows, is_rest, label_windows
from neuropipe.stages.events import events_section

log = logging.getLogger("neuropipe")

PACKAGES = ("numpy", "pandas", "pyarrow")
NO_EVENTS = pd.DataFrame({"onset_s": [], "duration_s": [], "condition": []})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe clips``."""
    parser.add_argument("--config", required=True, metavar="PATH", help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a dataset with a section events")
    parser.add_argument("--events", type=Path, required=True, metavar="PATH", help="table of `neuropipe events`")
    parser.add_argument("--receipts", type=Path, nargs="+", required=True, help="receipts of parcellate")
    parser.add_argument("--output", type=Path, required=True, help="clips.parquet beside manifest.parquet")


def run(*, config: str, dataset: str, events: Path, receipts: Sequence[Path], output: Path) -> None:
    """Write ``clips.parquet``, its sidecar, and the receipt with what was left out.

    Raises
    ------
    InputError
        Nothing could be labelled; the message sums up why.
    """
    settings = configuration.load(config)
    rules = events_section(settings, dataset, config)
    study = Study.of(output, "shards/<dataset>/clips.parquet")
    recordings = manifest.read(output.with_name("manifest.parquet")).to_dict("records")
    of_run = {row["run_id"]: row for row in read_tsv(events).to_dict("records")}
    products = {item["run_id"]: item["path"] for receipt in receipts for item in read_json(receipt)["products"]}
    root = data_root(Path(configuration.expand(settings.datasets[dataset].path)))
    found = Found()
    for recording in recordings:
        try:
            about = read_json(_sidecar(study, products, recording["run_id"]))
            windows = _windows(recording, about, of_run.get(recording["run_id"]), root, rules, settings.seed)
            found.add(recording, windows)
        except RunExcluded as reason:
            found.excluded.append(_excluded(recording, reason.reason, reason.detail))
    if not found.rows:
        raise InputError(
            f"Dataset {dataset}: none of {len(recordings)} recordings has a labelled clip.\n{summary(found.excluded)}\n"
            f"Correct datasets.{dataset}.events in the configuration, or the events."
        )
    table = _table(found.rows, rules)
    inputs = {study.relative(path): sha256(path) for path in (events, output.with_name("manifest.parquet"))}
    about = {"Clips": len(table), **_counts(table, rules, found), "Seed": settings.seed}
    about = describe("clips", inputs=inputs, settings=rules.model_dump(mode="json"), packages=PACKAGES, **about)
    with lock(output.with_name(".lock-clips")):
        write_json(output.with_suffix(".json"), about)
        manifest.write_parquet(output, table)
        product = {"path": study.relative(output), "sha256": sha256(output)}
        receipt = {"stage": "clips", "dataset": dataset, "products": [product], "excluded": found.excluded}
        write_json(study.clips_receipt(dataset), receipt)
    if lacking := [label for label, n in about["Labels"].items() if not n]:
        log.warning(
            "clips %s: no clip of %s; compare labels with the conditions of events.tsv", dataset, ", ".join(lacking)
        )
    extent = len(table), table["label"].nunique(), table["sample"].nunique()
    log.info("clips %s: %d clips of %d labels in %d recordings", dataset, *extent)


@dataclass
class Found:
    """What became of all recordings: rows of clips, excluded rows, and counts of windows."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    excluded: list[dict[str, str]] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, recording: Mapping[str, Any], windows: Windows) -> None:
        """Add the windows of one recording."""
        self.rows += [_row(recording, window) for window in windows.kept]
        self.excluded += _left_out(recording, windows)
        self.set_aside += windows.counts
        self.left_out += Counter(reason for reason, *_ in windows.left_out)


def _sidecar(study: Study, products: Mapping[str, str], run_id: str) -> Path:
    """Return the sidecar of a run's clean series, which says how its samples lie in time."""
    path = study.root / products[run_id] if run_id in products else None
    if path is None or not path.with_suffix(".json").is_file():
        raise InputError(
            f"{run_id} is in the shards, but its clean series is not in the receipts of parcellate or not there; run "
            "parcellate, shard and collect again."
        )
    return path.with_suffix(".json")


def _windows(
    recording: Mapping[str, Any],
    about: Mapping[str, Any],
    row: Mapping[str, str] | None,
    root: Path,
    rules: Events,
    seed: int,
) -> Windows:
    """Return the windows of one recording.

    Raises
    ------
    RunExcluded
        Its events are not there, not to be read, or not those of the index.
    """
    task = recording["task"] or ""
    if row is None:
        raise RunExcluded("changed since index", f"{recording['run_id']} is not in the table of events; index again")
    table = NO_EVENTS if is_rest(task, rules) else _read(row, root, rules)
    clock = Clock(_first_sample_s(about, rules), recording["t_r"], recording["n_timepoints"])
    rng = np.random.default_rng([seed, zlib.crc32(recording["key"].encode())])
    return label_windows(table, clock, np.asarray(recording["censored"], dtype=np.int64), rules, task, rng)


def _first_sample_s(about: Mapping[str, Any], rules: Events) -> float:
    """Return when the first sample of a clean series was acquired, on the clock of the onsets, in s."""
    removed_s = about["NonSteadyStateVolumesRemoved"] * about["Source"]["RepetitionTime"]
    if rules.start_time_s is not None:
        return rules.start_time_s + removed_s
    return about.get("StartTime", removed_s)  # where it is not known, of the first volume as 0


def _read(row: Mapping[str, str], root: Path, rules: Events) -> pd.DataFrame:
    """Return the events of a run that is not rest from end to end."""
    if row["reason"] != "n/a":
        raise RunExcluded(row["reason"], row["detail"])
    if row["events"] == "n/a":
        raise RunExcluded(
            "no events",
            f"expected an events.tsv of {row['run_id']}, found none; name its folder in events.path, or the run's task "
            "in events.rest_tasks if it is rest",
        )
    path = root / row["events"]
    if not path.is_file() or fingerprint(path) != row["fingerprint"]:
        raise RunExcluded("changed since index", f"{path.name} is not the file that was indexed; index again")
    columns = [rules.column] if isinstance(rules.column, str) else rules.column
    return event_files.read(path, columns, needs_duration=rules.duration_s is None)


def _row(recording: Mapping[str, Any], window: Any) -> dict[str, Any]:
    """Return a row of the product; label ids follow when all labels are known."""
    names = ("dataset", "participant_id", "session", "task", "run")
    row = {"key": f"{recording['key']}_clip-{window.number:03d}", "sample": recording["key"]}
    return row | {name: recording[name] for name in names} | vars(window)


def _table(rows: Sequence[Mapping[str, Any]], rules: Events) -> pd.DataFrame:
    """Return the clips with the ids of their labels: the map's order, or the alphabet where there is no map."""
    labels = rules.label_map()
    names = list(labels) if labels is not None else sorted({row["label"] for row in rows})
    table = pd.DataFrame(rows)
    table["label_id"] = table["label"].map({name: i for i, name in enumerate(names)})
    return table[list(CLIP_COLUMNS)].astype(CLIP_COLUMNS).sort_values("key", ignore_index=True)


def _excluded(recording: Mapping[str, Any], reason: str, detail: str) -> dict[str, str]:
    who = (recording["dataset"], recording["participant_id"], recording["run_id"])
    return exclusion("clips", *who, "n/a", reason, detail)


def _left_out(recording: Mapping[str, Any], windows: Windows) -> list[dict[str, str]]:
    """Return one row per reason and condition of a recording; single events would be a thousand."""
    groups = defaultdict(list)
    for reason, condition, onset_s, detail in windows.left_out:
        groups[reason, condition].append((onset_s, detail))
    return [
        _excluded(recording, reason, f"{len(cases)} x {condition}, first at {cases[0][0]:g} s: {cases[0][1]}")
        for (reason, condition), cases in groups.items()
    ]


def _counts(table: pd.DataFrame, rules: Events, found: Found) -> dict[str, dict[str, int]]:
    """Return what the sidecar counts: clips of each label, events set aside by the rules, windows left out."""
    labels = rules.label_map()
    per_label = table["label"].value_counts()
    names = list(labels) if labels is not None else sorted(per_label.index)
    return {
        "Labels": {name: int(per_label.get(name, 0)) for name in names},
        "SetAside": dict(sorted(found.set_aside.items())),
        "LeftOut": dict(sorted(found.left_out.items())),
    }
