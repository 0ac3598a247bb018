"""The cases of learning-from-brains that need no network: windows, batches, splits, tars."""

from __future__ import annotations

import tarfile
from typing import Any

import numpy as np

from neuropipe import restricted_pickle
from neuropipe.bids.tar_samples import samples
from neuropipe.data import windows
from neuropipe.data.windows import Window
from neuropipe.splits import published

N_FIRST = 4  # values of an array that the cases name


def window(c: dict, weights: None, inputs: dict) -> dict:
    """Random windows of one run, and which are possible."""
    n, shortest, longest = c["bold_len"], c["seq_min"], c["seq_max"]
    rng = np.random.RandomState(c["legacy_seed"])
    if c["sample_random_seq"]:
        drawn = [windows.draw(n, shortest, longest, rng) for _ in range(c["n_draws"])]
        least, most = windows.lengths(n, shortest, longest)
    else:
        drawn = [windows.first(n, longest)] * c["n_draws"]
        least = most = windows.first(n, longest).length
    starts = {
        str(length): windows.starts(n, length).tolist() if c["sample_random_seq"] else [0] for length in (least, most)
    }
    return {
        "draws_on_len": np.array(drawn),
        "len_min": least,
        "len_max": most,
        "starts_for_len": starts,
    }


def arrays(found: windows.Cut) -> dict[str, np.ndarray]:
    """Return a cut under the names of the cases."""
    mask = found.valid.astype(np.int64)
    return {
        "inputs": found.series,
        "t_rs": found.seconds,
        "attention_mask": mask,
        "token_type_ids": found.part,
    }


def batch_single(c: dict, weights: None, inputs: dict) -> dict:
    """One window of a run."""
    found = windows.cut(inputs["bold"], float(inputs["t_r"]), Window(c["seq_on"], c["seq_len"]), c["seq_max"])
    return arrays(found) | {"labels": inputs["label"]}


def batch_pair(c: dict, weights: None, inputs: dict) -> dict:
    """Two windows of two runs, each followed by the other's second part, or its own."""
    runs = ("run0", "run1")
    found = windows.pair(
        runs=tuple(inputs[f"{run}_bold"] for run in runs),
        t_r=tuple(float(inputs[f"{run}_t_r"]) for run in runs),
        windows=tuple(Window(c[run]["seq_on"], c[run]["seq_len"]) for run in runs),
        gaps=tuple(c[run]["gap"] for run in runs),
        exchanged=tuple(bool(label) for label in c["is_next"]),
        longest=c["seq_max"],
    )
    both = [arrays(one) for one in found]
    return {name: np.stack([one[name] for one in both]) for name in both[0]} | {"is_next": np.array(c["is_next"])}


def split(c: dict, weights: None, inputs: dict) -> dict:
    """Files on their sides."""
    if c["n_val_subjects_per_dataset"] is None:
        return published.by_runs(inputs["paths"], c["frac_val_per_dataset"], c["seed"])
    return published.by_people(
        inputs["paths"],
        c["n_train_subjects_per_dataset"],
        c["n_val_subjects_per_dataset"],
        c["n_test_subjects_per_dataset"],
        c["seed"],
    )


def tar(c: dict, weights: None, inputs: dict) -> dict:
    """What a tar holds."""
    with tarfile.open(inputs["tar"]) as archive:
        members = archive.getnames()
    found = list(samples(inputs["tar"]))
    told = [{part: told_of(part, content) for part, content in one.members.items()} for one in found]
    return {"members": members, "sample_keys": [one.key for one in found], "samples": told}


def told_of(part: str, content: bytes) -> Any:
    """Return what the cases say of a member: a number, a text, or the outline of an array."""
    if not part.endswith(".pyd"):
        return content.decode()
    value = restricted_pickle.loads(content, part)
    if np.ndim(value) == 0:
        return float(value)
    first, total = value.ravel()[:N_FIRST].tolist(), float(value.sum(dtype=np.float64))
    return {"shape": list(value.shape), "dtype": str(value.dtype), "first": first, "sum": total}
