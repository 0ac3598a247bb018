"""The study's configuration: what the graph needs, checked as a whole, every mistake shown at once.

`load` reads a ``config.yaml`` into frozen objects. The attribute docstrings below are the reference
of the file and the source of ``workflow/schemas/config.schema.json``.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neuropipe.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
People = Literal["train_side", "external", "everyone"]
RECIPES = Path(__file__).parent / "recipes"
PRESETS = Path(__file__).parent / "presets"
READY_MADE = ("series", "xcpd", "giga_connectome", "tars", "hdf5")
FINISHED = ("tars", "hdf5")  # ready for training as they are
# Meshes that people share; what is not one of them is the space of a volume.
SURFACE_SPACE = re.compile(r"fsLR|fsaverage[3-6]?|onavg")
HEMISPHERE_LABELS = (".gii", ".annot")
LABELMAPS = Path(__file__).parent / "labelmaps"


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Roles(Section):
    """Which columns of participants.tsv play which part; null where there is none."""

    site: str | None = "site"
    """Scanner or centre; splits are stratified within it."""
    kin: str | None = None
    """Family id: related people stay on one side."""
    age: str | None = "age"
    """Age in years."""
    sex: str | None = "sex"
    """Sex."""


class AtlasFile(Section):
    """An atlas of the user's own: a label image and its table."""

    id: Name
    """Short name, used in file names and region tables."""
    image: str | tuple[str, str]
    """Label image (``.nii``, ``.nii.gz``); for surfaces a ``.dlabel.nii``, or ``[left, right]``: two ``.label.gii`` or
    FreeSurfer's ``.annot``."""
    table: str | None = None
    """tsv with at least ``index`` and ``name``; ``atlas, network, hemisphere, x, y, z`` are used where present. Surface
    labels may go without: their files name the regions."""
    space: str
    """Template space of the image, e.g. ``MNI152NLin6Asym``; of surfaces ``fsLR``, ``fsaverage5``, ..."""
    kind: Literal["labels", "maps"] = "labels"
    """``labels``: one integer per region; ``maps``: a 4-D image, one map of weights per row of the table, in order."""
    sha256: str | None = None
    """Checksum of the image (of a pair: of the left file's bytes followed by the right's); a mismatch is an error."""

    @property
    def images(self) -> tuple[str, ...]:
        """The label image, or the pair."""
        return (self.image,) if isinstance(self.image, str) else self.image

    @property
    def on_surface(self) -> bool:
        """Whether the labels belong to vertices."""
        return self.images[0].endswith((".dlabel.nii", *HEMISPHERE_LABELS))

    @model_validator(mode="after")
    def _fits(self) -> AtlasFile:
        halves = [name for name in self.images if name.endswith(HEMISPHERE_LABELS)]
        if len(self.images) == 2 and len(halves) != 2:
            raise ValueError(f"two images are the .label.gii or .annot of both hemispheres, found {list(self.images)}")
        if len(self.images) == 1 and halves:
            raise ValueError(f"this file covers one hemisphere; write image: [left, right], found {self.image!r}")
        if self.on_surface and not SURFACE_SPACE.fullmatch(self.space):
            raise ValueError(f"labels of vertices lie in fsLR, fsaverage, fsaverage3-6 or onavg, found {self.space!r}")
        if not self.on_surface and SURFACE_SPACE.fullmatch(self.space):
            raise ValueError(f"{self.space} needs a .dlabel.nii, or two .label.gii or .annot, found {self.image!r}")
        if self.on_surface and self.kind == "maps":
            raise ValueError(f"maps are images of voxels, found {self.image!r}; write kind: labels")
        if self.table is None and not self.on_surface:
            raise ValueError("an image of voxels needs table: a tsv with index and name")
        return self


class Label(Section):
    """Where one label comes from."""

    conditions: Annotated[list[str], Field(min_length=1)]
    """Conditions of events.tsv, or shell patterns (``*_body``), that are this label."""
    tasks: list[str] = Field(default_factory=list)
    """Only in runs of these BIDS tasks (patterns, in capitals or not); default: in any."""


class Events(Section):
    """How events.tsv becomes labelled clips; keys given here replace those of a preset that `labels` names."""

    path: str | None = None
    """Folder with the events.tsv files, usually the raw BIDS dataset; null: the data's folder, or above it up to the
    BIDS root. Environment variables may be used, as in the dataset's ``path``."""
    column: str | Annotated[list[str], Field(min_length=1)] = "trial_type"
    """Column that names the condition; several are joined by ``_``."""
    labels: str | list[str] | dict[str, str | list[str] | Label] | None = None
    """Label map: a preset (``hcp7``, ``mdtb``), a YAML file of this section's keys, a list of conditions, or label ->
    conditions. Its order gives the label ids. null: every condition is a label, in alphabetical order."""
    merge: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """New name -> conditions or patterns that are renamed to it before labels are looked up."""
    exclude: list[str] = Field(default_factory=list)
    """Conditions or patterns that are never labelled, though something happens: they part blocks and are no rest."""
    ignore: list[str] = Field(default_factory=list)
    """Conditions or patterns that are treated as not there, e.g. button presses."""
    delay_s: Annotated[float, Field(ge=0, le=30)] = 4.5
    """Haemodynamic delay between an event and its clip, in s. A block of 10 to 30 s moved by 4.4 to 4.7 s correlates
    best with its response by the canonical function of Glover (1999, NeuroImage 9:416); a test computes it."""
    duration_s: Annotated[float, Field(gt=0)] | None = None
    """Length of every clip in s; null: the event's own duration."""
    join_gap_s: Annotated[float, Field(ge=0)] | None = None
    """Events of one condition that follow each other within this gap in s are one block; null: never joined."""
    overlap: Literal["drop", "keep"] = "drop"
    """Clips of different labels that overlap by more than the time of one sample (less is trimmed): ``drop`` both, or
    ``keep`` both."""
    rest: str = "rest"
    """Condition that gaps and resting runs get."""
    min_rest_s: Annotated[float, Field(gt=0)] | None = None
    """Gaps without any event of at least this length in s become clips of rest; null: gaps are no clips."""
    rest_tasks: list[str] = Field(default_factory=list)
    """Tasks (patterns, in capitals or not) whose runs are rest from end to end and need no events.tsv."""
    rest_s: Annotated[float, Field(gt=0)] | tuple[float, float] | None = None
    """Rest is cut into pieces of this length in s, or of whole seconds drawn from ``[from, to)``; null: not cut."""
    min_duration_s: Annotated[float, Field(ge=0)] = 0
    """Clips with less recorded time in s are left out; one sample is always needed."""
    max_censored_share: Share | None = 0.5
    """Clips with a larger share of censored samples are left out; null switches the rule off."""
    start_time_s: float | None = None
    """Time of the image's first volume on the clock of the onsets in s, e.g. where volumes were cut off before
    fMRIPrep; null: ``StartTime`` of the image's sidecar, or 0 where it is not known."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, content: Any) -> Any:
        """Fill in what a named preset or file says and `content` does not."""
        if not isinstance(content, dict) or not isinstance(content.get("labels"), str):
            return content
        name = content["labels"]
        own_file = name.endswith((".yaml", ".yml"))
        path = Path(expand(name)) if own_file else LABELMAPS / f"{name}.yaml"
        if not path.is_file():
            presets = ", ".join(sorted(found.stem for found in LABELMAPS.glob("*.yaml")))
            raise ValueError(f"labels: no label map {name!r}; expected a preset ({presets}) or an existing .yaml file")
        try:
            preset = read_yaml(path)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if isinstance(preset.get("labels"), str):
            raise ValueError(f"{path} names another label map ({preset['labels']}); write the labels themselves")
        return preset | {key: value for key, value in content.items() if key != "labels"}

    @model_validator(mode="after")
    def _rest(self) -> Events:
        labels = self.label_map()
        if labels is not None and not labels:
            raise ValueError(
                "labels: expected at least one label, found none; leave the key out to take every condition"
            )
        if (self.min_rest_s or self.rest_tasks) and labels is not None and not _listed_as(self.rest, labels):
            raise ValueError(
                f"rest is asked for, but no label has the condition {self.rest!r}; add it to labels, or drop "
                "min_rest_s and rest_tasks"
            )
        if isinstance(self.rest_s, tuple) and not 0 < self.rest_s[0] < self.rest_s[1]:
            raise ValueError(f"rest_s: expected two lengths in s, the shorter first, found {list(self.rest_s)}")
        return self

    def label_map(self) -> dict[str, Label] | None:
        """Return the labels in the order of their ids; None where every condition is a label of its own."""
        if self.labels is None or isinstance(self.labels, str):
            return None
        if isinstance(self.labels, list):
            return {name: Label(conditions=[name]) for name in self.labels}
        made = {name: [value] if isinstance(value, str) else value for name, value in self.labels.items()}
        return {name: value if isinstance(value, Label) else Label(conditions=value) for name, value in made.items()}


def _listed_as(condition: str, labels: dict[str, Label]) -> bool:
    """Return whether some label takes `condition`."""
    return any(fnmatch.fnmatchcase(condition, pattern) for label in labels.values() for pattern in label.conditions)


class Dataset(Section):
    """One folder of derivatives or ready-made series."""

    kind: Literal["fmriprep", "series", "xcpd", "giga_connectome", "tars", "hdf5"]
    """``fmriprep``: BIDS derivatives. Ready-made series: ``series`` (.1D, tsv, csv, npy, npz bank), ``xcpd`` and
    ``giga_connectome`` (their output folders), ``tars`` (WebDataset tars of learning-from-brains, or shards), ``hdf5``
    (the layout of Brain-Semantoks)."""
    path: str
    """Folder or file; environment variables may be used: ``${NAME}`` or ``${NAME:-default}``."""
    participants: str | None = None
    """participants.tsv; default: found beside the data."""
    select: dict[str, Any] = Field(default_factory=dict)
    """BIDS entities to keep, e.g. ``{task: [rest], space: MNI152NLin6Asym}``; the bids-filter-file form works too."""
    n_chunks: Annotated[int, Field(ge=1, le=1000)] = 4
    """Jobs; runs are assigned by a hash of the subject label."""
    roles: Roles = Roles()
    """Columns of participants.tsv."""
    atlas: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Ready-made series: id of the atlas that the columns come from, or ids in the order in which they are joined."""
    regions: str | None = None
    """Ready-made series: tsv that describes the columns (as an atlas table); default: the data's own table where
    they have one, else numbered regions."""
    t_r: Annotated[float, Field(gt=0)] | None = None
    """Ready-made series: repetition time in s where neither the data nor a participants column ``t_r`` gives it."""
    as_is: bool | None = None
    """Ready-made series: leave the values as they are, without filter, resampling and standardizing of ``clean``;
    default true for ``tars`` and ``hdf5``, whose series are finished, false for the others. Confounds are never
    regressed from ready-made series."""

    events: Events | None = None
    """Labelled clips for state decoding; null: none."""

    @property
    def ready_made(self) -> bool:
        """Whether the dataset holds regional series rather than images."""
        return self.kind in READY_MADE

    @property
    def keeps_values(self) -> bool:
        """Whether series are left as they are."""
        return self.kind in FINISHED if self.as_is is None else self.as_is

    @property
    def atlas_ids(self) -> list[str]:
        """Ids of the atlases of ready-made series."""
        return [self.atlas] if isinstance(self.atlas, str) else list(self.atlas or [])

    @model_validator(mode="after")
    def _fits_kind(self) -> Dataset:
        if self.kind in ("xcpd", "giga_connectome") and len(self.atlas_ids) != 1:
            raise ValueError(
                f"kind {self.kind} needs atlas: the one of its atlases that is meant (4S456Parcels, tian-s3)"
            )
        given = [key for key in ("atlas", "regions", "t_r", "as_is") if getattr(self, key) is not None]
        if given and not self.ready_made:
            raise ValueError(
                f"{', '.join(given)} is for ready-made series ({', '.join(READY_MADE)}), not for {self.kind}"
            )
        return self


class ColumnStrategy(Section):
    """Confounds chosen by name or pattern."""

    columns: Annotated[list[str], Field(min_length=1)]
    """Column names or shell patterns (``a_comp_cor_0?``)."""


Strategy = Literal[
    "none",
    "cosine",
    "gsr_only",
    "simple",
    "scrubbing",
    "24P",
    "27P",
    "36P",
    "36P+spikes",
    "acompcor",
    "acompcor_gsr",
    "acompcor50",
    "compcor",
    "icaaroma",
    "icaaroma_gsr",
]


class Clean(Section):
    """How regional series are cleaned."""

    strategy: Strategy | ColumnStrategy = "24P"
    """Confounds to regress, by nilearn's and XCP-D's names, or columns of the table (see docs/cleaning.md)."""
    global_signal: bool = False
    """Regress the table's global signal too."""
    mean_signal: bool = False
    """Regress the mean over regions too: the nearest thing to a global signal where there is no confounds table."""
    compcor: Literal["anat_separated", "anat_combined", "csf", "wm"] | None = None
    """Mask of the anatomical components; null: the strategy's (``compcor`` combined, ``acompcor`` separated)."""
    n_compcor: int | float | Literal["all"] | None = None
    """Components of each mask: how many, or a share of variance below 1; null: the strategy's (``acompcor`` 5)."""
    censor: bool | None = None
    """Censor volumes by motion; null: where the strategy does (``scrubbing`` and ``36P+spikes``)."""
    fd_threshold_mm: Annotated[float, Field(gt=0)] = 0.5
    """Volumes above this framewise displacement in mm are censored; without censoring they are counted."""
    std_dvars_threshold: Annotated[float, Field(gt=0)] | None = 1.5
    """Volumes above this standardised DVARS are censored too; null for none."""
    scrub: Annotated[int, Field(ge=0)] = 5
    """Stretches of fewer volumes than this between censored ones are censored too; 0 for none."""
    n_dummy: int | Literal["auto"] = "auto"
    """Volumes cut off at the start of a run; ``auto``: those that the confounds table calls non-steady."""
    filter: Literal["projection", "butterworth"] = "projection"
    """One joint least squares fit of stop-band, confounds and censored volumes, or nilearn's sequence of steps."""
    filter_order: Annotated[int, Field(ge=1, le=10)] = 5
    """Order of the Butterworth filter."""
    high_pass: Annotated[float, Field(gt=0)] | None = 0.01
    """Lower edge of the pass-band in Hz; null for none."""
    low_pass: Annotated[float, Field(gt=0)] | None = 0.1
    """Upper edge of the pass-band in Hz; null for none."""
    detrend: bool = True
    """Take out a linear trend: before Butterworth filtering; by the projection where no high-pass does so anyway."""
    t_r: Annotated[float, Field(gt=0)] | None = 2.0
    """Repetition time in s after resampling; null keeps the run's own."""
    standardize: Literal["zscore", "zscore_sample", "psc", "none"] = "zscore"
    """Per region over the run: z-score (population or sample deviation), percent signal change, or nothing."""
    smoothing_fwhm_mm: Annotated[float, Field(gt=0)] | None = None
    """Gaussian smoothing of the image before averaging, full width at half maximum in mm; null for none."""
    maps: Literal["weighted_mean", "least_squares"] = "weighted_mean"
    """How an image is averaged over maps: by their weights, or by least squares (nilearn's ``NiftiMapsMasker``)."""

    @field_validator("n_compcor", mode="before")
    @classmethod
    def _components(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        share = isinstance(value, float) and 0 < value < 1
        if not (value in (None, "all") or whole or share):
            raise ValueError(f"expected a count (5), a share of variance (0.5), all or null, found {value!r}")
        return value

    @field_validator("n_dummy", mode="before")
    @classmethod
    def _dummies(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            raise ValueError(f"expected a count of volumes (0, 4 ...) or auto, found {value!r}")
        return value

    @model_validator(mode="after")
    def _band(self) -> Clean:
        if self.high_pass and self.low_pass and self.high_pass >= self.low_pass:
            raise ValueError(f"high_pass ({self.high_pass} Hz) must lie below low_pass ({self.low_pass} Hz)")
        return self

    @model_validator(mode="after")
    def _agreement(self) -> Clean:
        named = self.strategy if isinstance(self.strategy, str) else ""
        if (self.compcor or self.n_compcor) and "compcor" not in named:
            raise ValueError(f"compcor and n_compcor go with strategy acompcor or compcor, found {self.strategy!r}")
        if self.global_signal and self.mean_signal:
            raise ValueError("global_signal and mean_signal are two estimates of one thing; choose one")
        return self


class Exclude(Section):
    """Limits beyond which a run is left out; null switches a rule off."""

    max_mean_fd_mm: float | None = 0.5
    """Mean framewise displacement in mm."""
    max_censored_share: Share | None = 0.5
    """Share of volumes censored."""
    min_duration_s: float | None = 120
    """Length of the run in s."""
    min_volumes: Annotated[int, Field(ge=1)] | None = None
    """Volumes left after censoring."""
    min_degrees_of_freedom: float | None = 20
    """Volumes left after censoring, confounds and filtering."""
    min_region_coverage: Share | None = 0.5
    """A region with a smaller share of its voxels in the brain mask is missing (NaN)."""
    max_missing_regions: int | None = 40
    """Runs with more missing regions are left out."""
    max_fd_mm: float | None = None
    """Largest framewise displacement of any volume, in mm."""
    min_kept_duration_s: float | None = None
    """Length in s of the volumes that are not censored."""
    min_mean_coverage: Share | None = None
    """Mean coverage of the regions, those below ``min_region_coverage`` included."""
    min_tsnr: float | None = None
    """Temporal signal-to-noise ratio before cleaning, median over regions."""
    max_dvars_percent: float | None = None
    """DVARS over regions after cleaning, in percent of their mean."""
    min_variance_retained: Share | None = None
    """Share of the pass-band's variance that the confounds leave, median over regions; little means over-fitted."""
    max_edge_motion: Share | None = None
    """Mean absolute correlation of framewise displacement with the co-fluctuation of two regions, after cleaning."""
    runs: list[str] | None = None
    """Left out by hand: run ids (``sub-01_task-rest``) or people (``sub-01``)."""


class Shards(Section):
    """How samples are packed."""

    shard_mb: Annotated[float, Field(gt=0)] = 256
    """Size of a tar in MB."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the series."""
    hdf5: bool = True
    """Also write ``dataset.h5`` in the layout of Brain-Semantoks."""


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
    stratify: list[str] = Field(default_factory=list)
    """Columns of participants.tsv (or roles) whose mixture is kept on every side."""
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
    """Column of participants.tsv."""
    kind: Literal["binary", "multiclass", "regression"]
    """Kind of target."""
    positive: str | None = None
    """Binary: the value that counts as positive."""
    datasets: Annotated[list[Name], Field(min_length=1)]
    """Whose people are asked."""
    split: Name
    """Which split judges."""
    confounds: list[str] = Field(default_factory=list)
    """Columns (or mean_fd, n_timepoints) of the confounds-only baseline; the target itself is dropped."""

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


class Evaluate(Section):
    """How everything is judged."""

    readouts: Annotated[list[Literal["linear", "ridge", "logistic"]], Field(min_length=1)] = ["linear"]
    """Readouts of frozen embeddings; ``linear`` is logistic for classes and ridge for numbers."""
    baselines: list[Literal["majority", "confounds", "fc", "random_weights"]] = [
        "majority",
        "confounds",
        "fc",
        "random_weights",
    ]
    """What stands beside every model."""
    bootstrap: Annotated[int, Field(ge=100)] = 10000
    """Draws of the bootstrap over persons."""
    permutations: Annotated[int, Field(ge=0)] = 200
    """Draws of the permutation null within site."""


class StudyConfig(Section):
    """A study: datasets in, believed numbers out."""

    study: Name
    """Products go to ``results/<study>/``."""
    preset: str | None = None
    """Preprocessing of a published system (``neuropipe/presets``): fills atlases, clean and exclude where silent."""
    seed: int = 0
    """Seed of everything that no other seed governs."""
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    """Named datasets."""
    atlases: list[str | AtlasFile] = Field(default_factory=list)
    """Catalogue ids or own files; one pass, one region table, in this order."""
    warp: bool = False
    """Bring atlases of another template space to that of the images, by TemplateFlow's transform; else refused."""
    clean: Clean = Clean()
    """Cleaning."""
    exclude: Exclude = Exclude()
    """Exclusions."""
    shards: Shards = Shards()
    """Packing."""
    splits: dict[Name, Split] = Field(default_factory=dict)
    """Named splits."""
    tasks: dict[Name, Task] = Field(default_factory=dict)
    """Named tasks."""
    pretrain: dict[Name, Pretrain] = Field(default_factory=dict)
    """Named recipes."""
    evaluate: Evaluate = Evaluate()
    """Judging."""

    def recipe_path(self, name: str) -> Path:
        """Return the recipe file of a pretraining name."""
        chosen = self.pretrain[name].recipe
        return Path(chosen) if chosen else RECIPES / f"{name}.yaml"

    def judging_splits(self, recipe: str) -> list[str]:
        """Return the splits whose folds a recipe is trained for and judged by, sorted."""
        item = self.pretrain[recipe]
        named = self.splits if item.splits is None else item.splits
        return sorted(
            {
                task.split
                for task in self.tasks.values()
                if task.split in named and (item.people == "external" or set(task.datasets) & set(item.datasets))
            }
        )

    def split_datasets(self, split: str) -> list[str]:
        """Return the datasets whose people a split divides: those of the tasks that use it, in config order."""
        used = {name for task in self.tasks.values() if task.split == split for name in task.datasets}
        return [name for name in self.datasets if name in used]

    def series_atlas(self, dataset: str) -> str:
        """Return the joined atlas label of a dataset's file names (alphanumerics only)."""
        if self.datasets[dataset].ready_made:
            ids = self.datasets[dataset].atlas_ids or ["regions"]
        else:
            ids = [a if isinstance(a, str) else a.id for a in self.atlases]
        return re.sub(r"[^A-Za-z0-9]", "", "".join(ids))


def _with_hint(name: str, known: Any) -> str:
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"found {name!r}{hint} (known: {', '.join(map(str, known)) or 'none'})"


def expand(text: str) -> str:
    """Expand ``${NAME}`` and ``${NAME:-default}`` from the environment."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name in os.environ:
            return os.environ[name]
        if default is None:
            raise ConfigError(
                f"The environment variable {name}, named in {text!r}, is not set; set it, or write a path."
            )
        return default

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, text)


def _known_keys(model: type[BaseModel], location: tuple) -> list[str]:
    """Return the keys that are known where `location` (without the wrong key itself) leads to in `model`."""
    inside_names = False  # the next step is a name that the user gave: of a dataset, split, task ...
    for step in location:
        if inside_names or step not in model.model_fields:
            inside_names = False
            continue
        annotation = model.model_fields[step].annotation
        inside_names = getattr(annotation, "__origin__", None) is dict
        model = _section_of(annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> Any:
    """Return the model inside an annotation like ``dict[Name, Task]`` or ``str | AtlasFile``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _section_of(part)) is not None:
            return found
    return None


def _lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per mistake, each with its dotted path and the value found."""
    lines: dict[str, str] = {}
    for mistake in error.errors():
        # Steps like "literal[...]" or "AtlasFile" name the tried member of a union, not a key of the file.
        steps = [s for s in mistake["loc"] if not (isinstance(s, str) and (s[0].isupper() or "[" in s or s == "str"))]
        where = ".".join(str(step) for step in steps)
        if mistake["type"] == "extra_forbidden":
            line = f"{where}: unknown key; {_with_hint(steps[-1], _known_keys(model, tuple(mistake['loc'][:-1])))}"
        elif mistake["type"] == "value_error":
            line = f"{where}: {mistake['ctx']['error']}"
        elif mistake["type"] == "missing":
            line = f"{where}: required, but not there"
        else:
            line = f"{where}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}, found {mistake['input']!r}"
        if mistake["type"] == "value_error":  # says more than that a section is not the text that it might be
            lines[where] = line
        lines.setdefault(where, line)
    return list(lines.values())


def _message(lines: list[str], source: str) -> str:
    count = f"{len(lines)} mistakes" if len(lines) > 1 else "one mistake"
    return f"{source} has {count}:\n" + "\n".join(f"  {line}" for line in lines)


def mistakes(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """Return every mistake that pydantic found in a file, each with its dotted path and the value found."""
    return _message(_lines(error, model), source)


def _part(content: Any, key: str) -> dict[str, dict]:
    """Return a mapping of mappings out of raw content, leaving out what is neither (reported elsewhere)."""
    found = content.get(key)
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _listed(item: dict, key: str) -> list:
    return item[key] if isinstance(item.get(key), list) else []


def _disagreements(content: dict[str, Any]) -> list[str]:
    """Return the mistakes between sections: names that one uses and the other does not have."""
    datasets, splits, tasks = (_part(content, key) for key in ("datasets", "splits", "tasks"))
    judged = {name for task in tasks.values() for name in _listed(task, "datasets")}
    lines = []
    if (name := content.get("preset")) is not None and name not in preset_names():
        lines.append(f"preset: {_with_hint(name, preset_names())}")
    for part in ("tasks", "pretrain"):
        for key, item in _part(content, part).items():
            unknown = [name for name in _listed(item, "datasets") if name not in datasets]
            lines += [f"{part}.{key}.datasets: {_with_hint(name, datasets)}" for name in unknown]
    for key, item in _part(content, "pretrain").items():
        unknown = [name for name in _listed(item, "splits") if name not in splits]
        lines += [f"pretrain.{key}.splits: {_with_hint(name, splits)}" for name in unknown]
    for key, task in tasks.items():
        if "split" in task and task["split"] not in splits:
            lines.append(f"tasks.{key}.split: {_with_hint(task['split'], splits)}")
    for key, item in _part(content, "pretrain").items():
        shared = sorted(judged & set(_listed(item, "datasets")))
        if item.get("people") == "external" and shared:
            lines.append(
                f"pretrain.{key}.people: external means datasets that no task judges, but {', '.join(shared)} is "
                "judged; use people: train_side, or other datasets"
            )
    if any(item.get("kind") == "fmriprep" for item in datasets.values()) and not content.get("atlases"):
        lines.append("atlases: a dataset of kind fmriprep needs at least one atlas (see `neuropipe atlas list`)")
    return lines + _impossible_on_surfaces(content)


def _impossible_on_surfaces(content: dict[str, Any]) -> list[str]:
    """Return the mistakes of a study with atlases of vertices that asks for what is done to voxels only."""
    atlases = content["atlases"] if isinstance(content.get("atlases"), list) else []
    spaces = [str(atlas.get("space")) for atlas in atlases if isinstance(atlas, dict)]
    if not any(map(SURFACE_SPACE.fullmatch, spaces)):
        return []
    lines = []
    if isinstance(content.get("clean"), dict) and content["clean"].get("smoothing_fwhm_mm"):
        lines.append("clean.smoothing_fwhm_mm: vertices are not smoothed; write null, and smooth before (wb_command)")
    if content.get("warp"):
        lines.append("warp: atlases of vertices are not warped; write false, and name an atlas of the mesh")
    return lines


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; every failure names the file and the remedy."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"No file {path}; name an existing YAML file (the demo's is config.yaml).")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, found {type(content).__name__}.")
    return content


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def with_preset(content: dict[str, Any]) -> dict[str, Any]:
    """Return raw content with what its preset says where it is silent itself, key by key of ``clean`` and ``exclude``.

    An unknown preset changes nothing; `parse` reports it.
    """
    name = content.get("preset")
    if name not in preset_names():
        return content
    filled = dict(content)
    for section, given in read_yaml(PRESETS / f"{name}.yaml").items():
        own = content.get(section)
        if isinstance(given, dict):
            filled[section] = given | own if isinstance(own, dict) else given if own is None else own
        else:
            filled[section] = own or given
    return filled


def parse(content: dict[str, Any], source: str = "the configuration") -> StudyConfig:
    """Return the checked configuration of an already read mapping.

    Raises
    ------
    ConfigError
        With every mistake in one message.
    """
    content = with_preset(content)
    lines, config = [], None
    try:
        config = StudyConfig.model_validate(content)
    except ValidationError as error:
        lines = _lines(error, StudyConfig)
    lines += _disagreements(content)
    if lines:
        raise ConfigError(_message(lines, source))
    assert config is not None
    return config


def load(path: str | Path) -> StudyConfig:
    """Read and check a study's configuration file."""
    return parse(read_yaml(path), str(path))


def schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml, which editors use to complete and check it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | StudyConfig.model_json_schema()
