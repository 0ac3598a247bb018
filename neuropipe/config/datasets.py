"""Datasets: where data lie, of which kind they are, and which columns of participants.tsv play which part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neuropipe.config.base import Name, Section
from neuropipe.config.events import Events

READY_MADE = ("series", "xcpd", "giga_connectome", "tars", "hdf5")
ANATOMY = ("cat12", "yaware", "openbhb")  # maps of anatomy; kind fmriprep too, where `map` names one
FINISHED = ("tars", "hdf5")  # ready for training as they are
Content = Literal["series", "volume", "image"]


def content_of(kind: str | None, map_name: str | None, holds: Content | None = None) -> Content:
    """Return what the samples of a dataset of some kind are."""
    if kind == "shards" and holds is not None:
        return holds
    if kind == "images":
        return "image"
    return "volume" if kind in ANATOMY or map_name is not None else "series"


def roots_of(links: Mapping[str, str]) -> dict[str, str]:
    """Return, for every dataset that `people_of` links to another, the dataset at the end of its chain.

    Datasets on a cycle, or that lead into one, have no end and are left out.
    """
    roots = {}
    for name in links:
        root, seen = name, set()
        while root in links and root not in seen:
            seen.add(root)
            root = links[root]
        if root not in links:
            roots[name] = root
    return roots


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


class Dataset(Section):
    """One folder of derivatives or ready-made series."""

    kind: Literal[
        "fmriprep",
        "series",
        "xcpd",
        "giga_connectome",
        "tars",
        "hdf5",
        "cat12",
        "yaware",
        "openbhb",
        "images",
        "shards",
    ]
    """``fmriprep``: BIDS derivatives. Ready-made series: ``series`` (.1D, tsv, csv, npy, npz bank), ``xcpd`` and
    ``giga_connectome`` (their output folders), ``tars`` (WebDataset tars of learning-from-brains, or shards), ``hdf5``
    (the layout of Brain-Semantoks). Anatomy: ``cat12`` (its output folder, BIDS or plain), ``yaware`` (data.npy with
    metadata.csv), ``openbhb``. Slices: ``images`` (a folder of pictures with a table). Of any content: ``shards``, as
    ``neuropipe publish`` left them at a store or in a folder; nothing is prepared anew."""
    path: str
    """Folder or file, of ``shards`` also ``s3://``, ``gs://`` or ``https://``; environment variables may be used:
    ``${NAME}`` or ``${NAME:-default}``."""
    participants: str | None = None
    """participants.tsv; default: found beside the data (of ``shards``: published with them)."""
    select: dict[str, Any] = Field(default_factory=dict)
    """BIDS entities to keep, e.g. ``{task: [rest], space: MNI152NLin6Asym}``; the bids-filter-file form works too."""
    n_chunks: Annotated[int, Field(ge=1, le=1000)] = 4
    """Jobs; runs are assigned by a hash of the subject label."""
    roles: Roles = Roles()
    """Columns of participants.tsv."""
    map: Literal["gm", "wm", "t1w"] | None = None
    """Anatomy: grey matter (``mwp1``, ``label-GM_probseg``), white matter, or the T1-weighted image itself; default gm.
    Kind ``fmriprep`` reads BOLD where this is null."""
    space: str | None = None
    """Anatomy: template space of maps whose names do not say it; default that of CAT12, MNI152NLin2009cAsym."""
    table: str | None = None
    """Kind ``images``: table of the pictures with columns ``path`` and ``participant_id`` (optionally ``session``,
    ``slice``); default ``slices.tsv`` or ``slices.csv`` in the folder."""
    people_of: Name | None = None
    """Dataset with the same people under the same ids: all that one person gave stays on one side of a split."""
    atlas: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Ready-made series: id of the atlas that the columns come from, or ids in the order in which they are joined."""
    regions: str | None = None
    """Ready-made series: tsv that describes the columns (as an atlas table); default: the data's own table where
    they have one, else the atlas's numbered regions, else the names of a table's columns."""
    t_r: Annotated[float, Field(gt=0)] | None = None
    """Ready-made series: repetition time in s where neither the data nor a participants column ``t_r`` gives it."""
    as_is: bool | None = None
    """Ready-made series: leave the values as they are, without filter, resampling and standardizing of ``clean``;
    default true for ``tars`` and ``hdf5``, whose series are finished, false for the others. Confounds are never
    regressed from ready-made series."""

    events: Events | None = None
    """Labelled clips for state decoding; null: none."""
    holds: Content | None = None
    """Kind ``shards``: what its samples are; default ``volume`` where `map` is given, else ``series``."""
    clips: bool = False
    """Kind ``shards``: labelled clips were published with the recordings, and are decoded."""

    @property
    def ready_made(self) -> bool:
        """Whether the dataset holds regional series rather than images."""
        return self.kind in READY_MADE or (self.fetched and self.content == "series")

    @property
    def fetched(self) -> bool:
        """Whether its samples were prepared elsewhere and only their tables are brought here."""
        return self.kind == "shards"

    @property
    def content(self) -> Content:
        """What a sample is: a regional series, a map, or a stack of slices."""
        return content_of(self.kind, self.map, self.holds)

    @property
    def stage(self) -> Literal["parcellate", "volumes"]:
        """The stage that prepares its samples."""
        return "parcellate" if self.content == "series" else "volumes"

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
        if self.fetched:
            return self._fits_shards()
        if given := [key for key in ("holds", "clips") if key in self.model_fields_set]:
            raise ValueError(f"{', '.join(given)} is for kind shards, not for {self.kind}")
        if self.kind in ("xcpd", "giga_connectome") and len(self.atlas_ids) != 1:
            raise ValueError(
                f"kind {self.kind} needs atlas: the one of its atlases that is meant (4S456Parcels, tian-s3)"
            )
        given = [key for key in ("atlas", "regions", "t_r", "as_is") if getattr(self, key) is not None]
        if given and not self.ready_made:
            raise ValueError(
                f"{', '.join(given)} is for ready-made series ({', '.join(READY_MADE)}), not for {self.kind}"
            )
        if self.map is not None and self.kind not in (*ANATOMY, "fmriprep"):
            raise ValueError(f"map is for anatomy ({', '.join(ANATOMY)}, fmriprep), not for {self.kind}")
        if self.table is not None and self.kind != "images":
            raise ValueError(f"table is for kind images, not for {self.kind}")
        if self.kind == "openbhb" and self.map not in (None, "gm"):
            raise ValueError(f"OpenBHB's maps are of grey matter; write map: gm, found {self.map}")
        if self.space is not None and (self.content != "volume" or self.kind == "fmriprep"):
            raise ValueError(
                f"space is for maps whose names do not say it ({', '.join(ANATOMY)}), not for {self.kind}; "
                "select: {space: ...} chooses images"
            )
        if self.content != "series" and self.events is not None:
            raise ValueError(f"events label windows of series; a dataset of kind {self.kind} has none")
        return self

    def _fits_shards(self) -> Dataset:
        own = ("select", "n_chunks", "space", "table", "atlas", "regions", "t_r", "as_is", "events")
        if given := [key for key in own if key in self.model_fields_set]:
            raise ValueError(f"shards are used as they were published; leave out {', '.join(given)}")
        if self.map is not None and self.content != "volume":
            raise ValueError(f"map is for anatomy; these shards hold: {self.content}")
        if self.clips and self.content != "series":
            raise ValueError(f"clips are windows of series; these shards hold: {self.content}")
        return self
