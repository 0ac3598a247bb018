"""One scan of the volumes stage: what all scans of a dataset share, and the way from a manifest row to a ready map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from neuropipe import config as configuration
from neuropipe import provenance
from neuropipe.bids import anatomy
from neuropipe.errors import ConfigError, RunExcluded
from neuropipe.shards.read import Grid
from neuropipe.signals import atlases as atlas_files
from neuropipe.signals import quality
from neuropipe.signals.regions import COLUMNS, Regions
from neuropipe.signals.warp import Warp
from neuropipe.stages import chunk
from neuropipe.volumes.prepare import Prepared, prepare, prepare_slices
from neuropipe.volumes.regional import Parcellation
from neuropipe.volumes.scale import pack

TISSUES = ("gm", "wm")  # maps whose sum is a volume
SUFFIXES = {"gm": "gm", "wm": "wm", "t1w": "T1w"}


@dataclass(frozen=True, eq=False)
class ReadyScan:
    """A finished scan, ready to be written.

    Attributes
    ----------
    array : ndarray (x, y, z) or (slice, row, column)
        As stored.
    scale, shift : float
        What was prepared = stored value times scale plus shift.
    grid : Grid or None
        Where the voxels of a map lie; None for slices.
    regional : dict of str to array (region,)
        ``n_voxels``, ``coverage`` and ``volume_ml`` of each region; empty without regions.
    quality : dict
        Numbers by name.
    names : list of str
        Of the slices; empty for maps.
    """

    array: np.ndarray
    scale: float
    shift: float
    grid: Grid | None
    regional: dict[str, np.ndarray]
    quality: dict[str, Any]
    names: list[str]


@dataclass
class Job:
    """What all scans of a dataset share.

    Attributes
    ----------
    dataset : str
        Name of the dataset.
    root : Path
        Folder that the manifest's paths start from.
    config : StudyConfig
        The study.
    atlases : list of Atlas
        In which regional volumes are summed; empty for T1w images and slices.
    regions : Regions
        Rows of every table of volumes; of length 0 without atlases.
    settings : dict
        Everything that decides what a product looks like; its hash is part of every fingerprint.
    parcellations : dict
        Atlases on the one or two grids seen last.
    warp : Warp
        Brings atlases of another space to that of the maps, where the configuration asks for it.
    """

    dataset: str
    root: Path
    config: configuration.StudyConfig
    atlases: list[atlas_files.Atlas]
    regions: Regions
    settings: dict[str, Any]
    parcellations: dict[tuple, Parcellation] = field(default_factory=dict)
    warp: Warp = field(default_factory=Warp)

    @classmethod
    def load(cls, path: str, dataset: str) -> Job:
        """Read the configuration and load the atlases whose regions are measured."""
        config = configuration.load(path)
        if dataset not in config.datasets:
            raise ConfigError(f"{path} has no dataset {dataset!r}; known: {', '.join(config.datasets)}.")
        section = config.datasets[dataset]
        if section.stage != "volumes":
            raise ConfigError(f"{path}: {dataset} is of kind {section.kind}, series; run `neuropipe parcellate`.")
        summed = config.volumes.regional and section.content == "volume" and (section.map or "gm") in TISSUES
        specs = [spec for spec in config.atlases if isinstance(spec, str) or not spec.on_surface] if summed else []
        atlases = [atlas_files.load(spec) for spec in specs]
        regions = atlas_files.regions(atlases) if atlases else without_regions()
        settings = {
            "volumes": config.volumes.model_dump(),
            "map": section.map,
            "space": section.space,
            "exclude": config.exclude.model_dump(include={"min_region_coverage"}),
            "atlases": [{"id": a.id, "space": a.space, "sha256": a.checksum} for a in atlases],
            "regions": provenance.hash_json([a.table.astype(str).values.tolist() for a in atlases]),
        }
        root = anatomy.data_root(Path(configuration.expand(section.path)))
        return cls(dataset, root, config, atlases, regions, settings)

    @property
    def section(self) -> configuration.Dataset:
        """The dataset's part of the configuration."""
        return self.config.datasets[self.dataset]

    @property
    def suffix(self) -> str:
        """Last part of a product's name."""
        return "slices" if self.section.content == "image" else SUFFIXES[self.section.map or "gm"]

    @property
    def stamp(self) -> str:
        """Hash by which a worker knows that the configuration is still that of the job."""
        return provenance.hash_json([self.settings, self.config.exclude.model_dump()])

    def fingerprint(self, row: Mapping[str, str]) -> str:
        """Return the hash over a scan's inputs, the settings and the stage's version."""
        own = [row[column] for column in ("run_id", "space", "image", "beside", "offset", "fingerprint")]
        if self.config.warp and self.atlases:
            own.append(provenance.hash_json(self.warp.used(self.atlases, row["space"])))
        return provenance.hash_json([own, self.settings, provenance.STAGE_VERSIONS["volumes"]])

    def parcellation(self, space: str, shape: tuple[int, ...], affine: np.ndarray) -> Parcellation:
        """Return the atlases on a grid of `space`; the maps of a study share one."""
        key = (space, shape, affine.tobytes())
        if key not in self.parcellations:
            self._check_space(space)
            if len(self.parcellations) > 1:
                self.parcellations.pop(next(iter(self.parcellations)))
            self.parcellations[key] = Parcellation.on_grid(self.atlases, self.warp, space, shape, affine)
        return self.parcellations[key]

    def _check_space(self, space: str) -> None:
        other = [atlas.id for atlas in self.atlases if atlas.space != space]
        if other and not self.config.warp:
            raise RunExcluded(
                "wrong space",
                f"expected maps in {self.atlases[0].space}, the space of the atlases, found {space}; "
                f"{atlas_files.advice(other, space)}; or set volumes.regional: false, or correct the dataset's space",
            )


def without_regions() -> Regions:
    """Return a region table without rows."""
    return Regions(Regions.plain("none", 1).table.iloc[:0][COLUMNS])


def attempt(job: Job, row: dict[str, str]) -> ReadyScan | RunExcluded:
    """Prepare one scan, or return why it is left out; every other error is a bug and goes on up."""
    return chunk.attempt(process, job, row)


def process(job: Job, row: dict[str, str]) -> ReadyScan:
    """Prepare one scan; threads of the linear algebra are held at one, so that bytes do not depend on the machine."""
    settings = job.config.volumes
    with threadpool_limits(limits=1):
        found = anatomy.read(job.section, job.root, row, settings.image_size)
        if job.section.content == "image":
            ready, grid = prepare_slices(found, settings), None
        else:
            ready = prepare(found, settings, is_tissue=(job.section.map or "gm") in TISSUES)
            grid = Grid(found.space, ready.array.shape, ready.affine)
        try:
            quality.check(ready.quality, job.config.exclude)
        except RunExcluded as reason:
            reason.quality = ready.quality
            raise
        regional = regional_volumes(job, ready, found.space)
        return ReadyScan(*pack(ready.array, settings.dtype), grid, regional, ready.quality, list(found.names or []))


def regional_volumes(job: Job, ready: Prepared, space: str) -> dict[str, np.ndarray]:
    """Return the volumes of a map's regions, measured on its own grid before anything was resampled, cut or scaled."""
    if not job.atlases or ready.source_affine is None:
        nothing = np.full(len(job.regions), np.nan)
        return {"n_voxels": np.zeros(len(nothing), dtype=int), "coverage": nothing, "volume_ml": nothing}
    parcellation = job.parcellation(space, ready.source.shape, ready.source_affine)
    volumes = parcellation.volumes_ml(ready.source, job.config.exclude.min_region_coverage or 0.0)
    return {"n_voxels": parcellation.n_voxels, "coverage": parcellation.coverage, "volume_ml": volumes}
