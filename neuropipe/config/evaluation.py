"""What is asked of whom: splits, tasks, training and judging."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from neuropipe.config.base import Name, Section

People = Literal["train_side", "external", "everyone"]
Readout = Literal["linear", "ridge", "logistic", "knn", "attentive"]
# Linear models of the data themselves.
OfData = Literal["fc", "fc_partial", "fc_tangent", "mean_pattern", "voxels", "regions"]
Baseline = Literal["majority", "confounds", "random_weights"] | OfData
# What every comparison is with, by what samples are; the samples of state decoding are clips.
REFERENCES = {"series": "fc", "volume": "voxels", "image": "voxels", "clip": "mean_pattern"}
# What ends the name of a system, in this order, and what joins a recipe with the baseline that is read beside it.
BESIDE = " + "
RANDOM_WEIGHTS = " (random weights)"  # a recipe's untrained twin
FROM_SCRATCH = " (from scratch)"  # a network that was trained for the task from random weights
HARMONISED = " (ComBat)"  # its features went through ComBat
EXTERNAL = "external"  # the role of people of test datasets, and the `fold` of what is said of them
OF_CONTENT = {  # the others fit any
    "fc": ("series", "clip"),
    **dict.fromkeys(("fc_partial", "fc_tangent"), ("series",)),
    "mean_pattern": ("clip",),
    "voxels": ("volume", "image"),
    "regions": ("volume",),
}


def reference_of(content: str) -> str:
    """Return the baseline that everything is compared with where samples are `content`."""
    return REFERENCES[content]


def fits(baseline: str, content: str, atlases: bool) -> bool:
    """Return whether a baseline can answer for samples of some content; regional volumes need an atlas."""
    return content in OF_CONTENT.get(baseline, (content,)) and (baseline != "regions" or atlases)


class Split(Section):
    """Who is on which side; frozen once as a table."""

    scheme: Literal["holdout", "kfold", "repeated_kfold", "leave_one_site_out", "predefined"]
    """How people are divided."""
    test: float | int | dict[str, int] | None = None
    """Holdout: share of people, or a count, or counts per dataset."""
    validation: float | int | dict[str, int] | None = None
    """Holdout: the same for a validation side; default none (choices are made on inner folds)."""
    n_folds: Annotated[int, Field(ge=2)] = 5
    """k-fold: number of folds."""
    n_repeats: Annotated[int, Field(ge=1)] = 1
    """Repeated k-fold: number of repeats."""
    stratify: list[str] | None = None
    """Columns of participants.tsv (or roles) whose mixture is kept on every side, within site. Default: of ``kfold``
    and ``repeated_kfold`` the classes that their tasks ask for; else none."""
    site: str | None = None
    """Leave-one-site-out: column that names the site; default the role ``site``."""
    path: str | None = None
    """Predefined: tsv with ``participant_id`` and ``role`` (optionally ``dataset``, ``fold``)."""
    by: str | None = None
    """Predefined: column of participants.tsv whose values decide the side."""
    train_values: list[str] = Field(default_factory=list)
    """Values of ``by`` on the training side."""
    validation_values: list[str] = Field(default_factory=list)
    """Values of ``by`` on the validation side."""
    test_values: list[str] = Field(default_factory=list)
    """Values of ``by`` on the test side."""
    seed: int = 0
    """Seed of the draw."""

    @field_validator("test", "validation")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(f"a share lies between 0 and 1 (a count is written without a point), found {value}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Split:
        if self.scheme == "holdout" and self.test is None:
            raise ValueError("scheme holdout needs test: a share (0.3), a count (20) or counts per dataset")
        if self.scheme == "predefined" and (self.path is None) == (self.by is None):
            raise ValueError(
                "scheme predefined needs either path: <tsv> or by: <column> with train_values and test_values"
            )
        return self


class Task(Section):
    """A question put to every model and baseline."""

    target: str
    """Column of participants.tsv; of ``decoding``, what the labels of clips are called: state."""
    kind: Literal["binary", "multiclass", "regression", "decoding"]
    """Kind of target. ``decoding``: the labels of clips (``events`` of the datasets); every clip of a test person is
    judged once, and intervals are over persons."""
    positive: Annotated[str, Field(coerce_numbers_to_str=True)] | None = None
    """Binary: the value that counts as positive."""
    datasets: Annotated[list[Name], Field(min_length=1)]
    """Whose people are asked."""
    test_datasets: list[Name] = Field(default_factory=list)
    """Datasets that no training sees: everything that learned on ``datasets`` answers for their people too."""
    split: Name
    """Which split judges."""
    confounds: list[str] = Field(default_factory=list)
    """Columns of the confounds-only baseline, or measures of the scan: mean_fd, n_timepoints (series), tiv_ml (maps).
    The target itself is dropped."""
    training_people: list[Annotated[int, Field(ge=1)]] = [1, 3, 6, 12, 24, 48]
    """Decoding: from how many people the label-efficiency grid learns, as far as there are, and from all; ``[]``
    leaves the grid out."""
    training_draws: Annotated[int, Field(ge=1)] = 5
    """Decoding: draws of people for each of these numbers."""

    @property
    def asked(self) -> list[str]:
        """All datasets whose people are told: those that the split divides, then the test datasets."""
        return [*self.datasets, *self.test_datasets]

    @model_validator(mode="after")
    def _positive(self) -> Task:
        if self.kind == "binary" and self.positive is None:
            raise ValueError("a binary task needs positive: the value of the target that counts as positive")
        return self


class Pretrain(Section):
    """A recipe to train, on whom, with which seeds."""

    datasets: Annotated[list[Name], Field(min_length=1)]
    """Whose recordings are seen."""
    people: People = "train_side"
    """``train_side`` of each fold that judges it; ``external``: datasets of no task; ``everyone``: printed in red."""
    splits: list[Name] | None = None
    """Splits whose folds it is trained for; default: those of every task on its datasets."""
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    """One model per seed."""
    recipe: str | None = None
    """Recipe file; default ``neuropipe/recipes/<name>.yaml``."""
    checkpoint: str | None = None
    """Released weights that are taken instead of training: a file, or ``hf:owner/name[@revision][:file]``. The recipe
    names their family and config, ``datasets`` whose people they embed; ``people`` must be ``external``."""
    finetune: list[Name] = Field(default_factory=list)
    """Tasks that the whole network is trained for, beside the readouts of its frozen embeddings; how, says the recipe
    under ``finetune:``."""

    @model_validator(mode="after")
    def _released(self) -> Pretrain:
        if self.checkpoint is not None and (self.people != "external" or len(self.seeds) > 1):
            raise ValueError(
                "with checkpoint nothing is trained: write people: external, and one seed; found people: "
                f"{self.people}, seeds: {self.seeds}"
            )
        return self


class Evaluate(Section):
    """How everything is judged."""

    readouts: Annotated[list[Readout], Field(min_length=1)] = ["linear"]
    """Readouts of frozen embeddings; ``linear`` is logistic for classes and ridge for numbers. ``attentive`` pools the
    tokens of families that have some by one learned query, ``knn`` asks the nearest training people; both stand beside
    the linear ones."""
    baselines: list[Baseline] = ["majority", "confounds", "fc", "mean_pattern", "voxels", "regions", "random_weights"]
    """What stands beside every model, where it fits what a task's samples are: ``fc`` for series and clips,
    ``mean_pattern`` (regions averaged over time) for clips, ``voxels`` for maps and slices, ``regions`` (regional
    volumes) for maps where the study has atlases. Only where they are named: ``fc_partial`` (partial correlations) and
    ``fc_tangent`` (covariances in the training side's tangent space)."""
    combine: list[OfData] = Field(default_factory=list)
    """Baselines that embeddings are joined with, as systems of their own (``<recipe> + fc``): what they add to it. The
    embedding's share is chosen on inner folds."""
    bootstrap: Annotated[int, Field(ge=100)] = 10000
    """Draws of the bootstrap over persons."""
    permutations: Annotated[int, Field(ge=0)] = 200
    """Draws of the permutation null within site."""
    learning_curve_draws: Annotated[int, Field(ge=0)] = 20
    """Draws of 16, 32, 64 ... training people for each point of a learning curve; 0 leaves curves out."""
    harmonise: Literal["combat"] | None = None
    """Let everything that reads features answer once more with ComBat, fitted on each fold's training side."""
    harmonise_keep: list[str] = Field(default_factory=list)
    """Columns whose effects ComBat leaves in the features, as age and sex; a task's own target is never one of them."""

    @model_validator(mode="after")
    def _combined_stand_alone(self) -> Evaluate:
        if alone := [name for name in self.combine if name not in self.baselines]:
            raise ValueError(
                f"combine joins embeddings with {', '.join(alone)}, which baselines leaves out, so that nothing tells "
                "what the embeddings add to it; name it there too"
            )
        return self
