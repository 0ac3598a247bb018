"""From images to shards: cleaning, the limits that leave a run out, packing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from neuropipe.config.base import Section, Share


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
    max_iqr_grade: Annotated[float, Field(ge=0.5, le=10.5)] | None = None
    """Anatomy: CAT12's image quality as a grade (1 excellent, 4 sufficient, 6 and worse unacceptable)."""
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
    publish: Annotated[str, Field(pattern=r"^(s3://[^/]+|/|\./|\.\./)")] | None = None
    """Where ``snakemake publish`` copies every dataset's shards, each into a folder of its name: ``s3://bucket/prefix``
    or a path (``/srv/shards``, ``./published``). People's labels stay here."""
