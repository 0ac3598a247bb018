"""What the systems of a study are: trained models, the same networks untrained, and the baselines."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

RANDOM = " (random weights)"
SCRATCH = " (from scratch)"
BASELINES = {"fc": "Functional connectivity", "confounds": "Confounds only"}
# Drawing order: what the study is about first, what needs no brain data last.
ROLES = ["model", "scratch", "random", "fc", "confounds", "majority"]
READOUTS = {
    "linear": "linear readout",
    "ridge": "ridge",
    "logistic": "logistic",
    "attentive": "attentive readout",
    "knn": "k nearest neighbours",
    "finetune": "fine-tuned",
    "baseline": "",
}


@dataclass(frozen=True)
class System:
    """A competitor on a leaderboard.

    Attributes
    ----------
    run_id : str
        What identifies it in every table.
    name, readout : str
        As in the tables.
    role : str
        One of `ROLES`.
    label : str
        For people.
    css : str
        Class that gives colour and stroke.
    seed : str
        Of a network; empty without one.
    """

    run_id: str
    name: str
    readout: str
    role: str
    label: str
    css: str
    seed: str = ""

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return this system's rows of a table."""
        return table[table["run_id"] == self.run_id]


def role_of(name: str) -> str:
    """Return the role of a system by its name."""
    if name.endswith(RANDOM):
        return "random"
    if name.endswith(SCRATCH):
        return "scratch"
    if name in ("confounds", "majority"):
        return name
    if name == "fc" or name.startswith(("fc-", "fc_", "fc ")):
        return "fc"
    return "model"


def label_of(name: str, readout: str, seed: str, kind: str) -> str:
    """Return what a system is called on the page; `kind` is the kind of the task."""
    if name == "majority":
        base = "Mean of the training people" if kind == "regression" else "Majority class"
    elif name in BASELINES:
        base = BASELINES[name]
    elif name.endswith(RANDOM):
        base = f"{name.removesuffix(RANDOM)}, random weights"
    elif name.endswith(SCRATCH):
        base = f"{name.removesuffix(SCRATCH)}, from scratch"
    else:
        base = name
    parts = [base, READOUTS.get(readout, readout), f"seed {seed}" if seed else ""]
    return " · ".join(part for part in parts if part)


def make(runs: pd.DataFrame, kind: str) -> list[System]:
    """Return the systems of a task in drawing order.

    Parameters
    ----------
    runs : DataFrame
        Text columns run_id, system, readout, seed: one row per run. Readout and seed are part of a
        label only where one system has several.
    kind : {"binary", "multiclass", "regression"}
        Kind of the task.
    """
    roles = runs["system"].map(role_of)
    runs = runs.assign(role=roles, rank=roles.map(ROLES.index)).sort_values(["rank", "run_id"])
    n_seeds = runs.groupby(["system", "readout"])["seed"].transform("nunique")
    n_readouts = runs.groupby("system")["readout"].transform("nunique")
    numbers = runs.groupby("role").cumcount() + 1
    found = []
    for run, seeds, readouts, number in zip(runs.itertuples(), n_seeds, n_readouts, numbers, strict=True):
        shown = run.readout if readouts > 1 else "baseline"
        label = label_of(run.system, shown, run.seed if seeds > 1 else "", kind)
        css = f"s-{run.role}" if number == 1 else f"s-{run.role} v{min(number, 4)}"
        found.append(System(run.run_id, run.system, run.readout, run.role, label, css, run.seed))
    return found
