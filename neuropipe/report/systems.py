"""What the systems of a study are: trained models, the same networks untrained, and the baselines."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from neuropipe.config import BESIDE, HARMONISED
from neuropipe.config import FROM_SCRATCH as SCRATCH
from neuropipe.config import RANDOM_WEIGHTS as RANDOM
from neuropipe.config import REFERENCES as NAMES_OF

NAMES = frozenset(NAMES_OF.values())  # what references are called in the tables
BASELINES = {
    "fc_partial": "Partial correlations",
    "fc_tangent": "Connectivity in tangent space",
    "regions": "Linear model of regional volumes",
    "confounds": "Confounds only",
}
# Drawing order: what the study is about first, what needs no brain data last.
ROLES = ["model", "combined", "scratch", "random", "reference", "connectivity", "variant", "regions", "confounds"]
ROLES += ["majority"]
VARIANTS = ("fc_partial", "fc_tangent")
SQUARE = ("reference", "connectivity", "variant", "regions", "confounds", "majority")  # drawn as squares: no network
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
class Reference:
    """The baseline that everything is compared with, in words.

    Attributes
    ----------
    words : str
        What it is called within a sentence.
    data : str
        What is read out linearly.
    short : str
        For the head of a column.
    """

    words: str
    data: str
    short: str

    @property
    def label(self) -> str:
        """What it is called in a list."""
        text = self.words.removeprefix("the ")
        return text[0].upper() + text[1:]


REFERENCES = {
    "series": Reference("functional connectivity", "connectivity", "FC"),
    "volume": Reference("the linear model of voxels", "voxels", "voxels"),
    "image": Reference("the linear model of pixels", "pixels", "pixels"),
    "clip": Reference("the mean pattern of regions", "mean patterns", "mean pattern"),
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


def role_of(name: str, content: str = "series") -> str:
    """Return the role of a system by its name; of clips, connectivity is not what others are compared with.

    After ComBat, what reads the data itself is a variant of the reference, and a model stands beside itself.
    """
    if name.endswith(HARMONISED):
        role = role_of(name.removesuffix(HARMONISED), content)
        return {"random": "random", "scratch": "scratch", "model": "combined", "combined": "combined"}.get(
            role, "variant"
        )
    if name.endswith(RANDOM):
        return "random"
    if name.endswith(SCRATCH):
        return "scratch"
    if name in ("regions", "confounds", "majority"):
        return name
    if content == "clip" and name == NAMES_OF["series"]:
        return "connectivity"
    if name in NAMES:
        return "reference"
    if name in VARIANTS:
        return "variant"
    return "combined" if BESIDE in name else "model"


def label_of(name: str, readout: str, seed: str, kind: str, content: str = "series") -> str:
    """Return what a system is called on the page; `kind` is that of the task, `content` that of its samples."""
    if name.endswith(HARMONISED):
        head, *rest = label_of(name.removesuffix(HARMONISED), readout, seed, kind, content).split(" · ")
        return " · ".join([f"{head}, ComBat", *rest])
    if name == "majority":
        base = "Mean of the training people" if kind == "regression" else "Majority class"
    elif name in NAMES:
        base = REFERENCES["series" if role_of(name, content) == "connectivity" else content].label
    elif name in BASELINES:
        base = BASELINES[name]
    elif name.endswith(RANDOM):
        base = f"{_joined(name.removesuffix(RANDOM), content)}, random weights"
    elif name.endswith(SCRATCH):
        base = f"{name.removesuffix(SCRATCH)}, from scratch"
    else:
        base = _joined(name, content)
    parts = [base, READOUTS.get(readout, readout), f"seed {seed}" if seed else ""]
    return " · ".join(part for part in parts if part)


def _joined(name: str, content: str) -> str:
    """Return a recipe's name as it is, and what it is joined with in words."""
    recipe, beside, baseline = name.partition(BESIDE)
    if not beside:
        return name
    words = REFERENCES[content].label if baseline in NAMES else BASELINES.get(baseline, baseline)
    return f"{recipe}{BESIDE}{words[0].lower()}{words[1:]}"


def make(runs: pd.DataFrame, kind: str, content: str = "series") -> list[System]:
    """Return the systems of a task in drawing order.

    Parameters
    ----------
    runs : DataFrame
        Text columns run_id, system, readout, seed: one row per run. Readout and seed are part of a
        label only where one system has several.
    kind : {"binary", "multiclass", "regression", "decoding"}
        Kind of the task.
    content : {"series", "volume", "image", "clip"}
        What its samples are.
    """
    roles = runs["system"].map(lambda name: role_of(name, content))
    runs = runs.assign(role=roles, rank=roles.map(ROLES.index)).sort_values(["rank", "run_id"])
    n_seeds = runs.groupby(["system", "readout"])["seed"].transform("nunique")
    n_readouts = runs.groupby("system")["readout"].transform("nunique")
    numbers = runs.groupby("role").cumcount() + 1
    found = []
    for run, seeds, readouts, number in zip(runs.itertuples(), n_seeds, n_readouts, numbers, strict=True):
        shown = run.readout if readouts > 1 else "baseline"
        label = label_of(run.system, shown, run.seed if seeds > 1 else "", kind, content)
        css = f"s-{run.role}" if number == 1 else f"s-{run.role} v{min(number, 4)}"
        found.append(System(run.run_id, run.system, run.readout, run.role, label, css, run.seed))
    return found
