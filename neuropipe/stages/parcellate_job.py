"""One run of a parcellation: what all runs of a dataset share, and the way from a manifest row to a clean series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from neuropipe import config as configuration
from neuropipe import provenance
from neuropipe.bids import doors, entities, series_tables
from neuropipe.bids.series import data_root
from neuropipe.errors import ConfigError, RunExcluded
from neuropipe.signals import atlases as atlas_files
from neuropipe.signals import confounds as confound_tables
from neuropipe.signals import quality, surface
from neuropipe.signals.extract import Extraction, extract, grid_of
from neuropipe.signals.grids import Merged
from neuropipe.signals.keep import keep_run
from neuropipe.signals.regions import Regions
from neuropipe.signals.run import CleanRun, clean_run, motion_only, quality_before, remembered, without_confounds
from neuropipe.signals.warp import Warp
from neuropipe.signals.weights import Weights, on_run
from neuropipe.stages import chunk

GRIDS_KEPT = 4  # a few MB each; runs whose affines differ in the last digits must not fill the memory


@dataclass
class Job:
    """What all runs of a dataset share.

    Attributes
    ----------
    dataset : str
        Name of the dataset.
    root : Path
        Folder that the manifest's paths start from.
    config : StudyConfig
        The study.
    atlases : list of Atlas or SurfaceAtlas
        Loaded; empty for ready-made series.
    regions : Regions
        Columns of every product.
    settings : dict
        Everything that decides what a product looks like; its hash is part of every fingerprint. Limits that only
        decide whether a run is kept are not among it: they are put to the quality of finished runs again.
    grids : dict
        Weights on the last grids seen, or labels on the last columns of surfaces.
    warp : Warp
        Brings atlases of another space to that of the images, where the configuration asks for it.
    """

    dataset: str
    root: Path
    config: configuration.StudyConfig
    atlases: list[atlas_files.Atlas | surface.SurfaceAtlas]
    regions: Regions
    settings: dict[str, Any]
    grids: dict[tuple, Weights | Merged] = field(default_factory=dict)
    warp: Warp = field(default_factory=Warp)

    @classmethod
    def load(cls, path: str, dataset: str) -> Job:
        """Read the configuration and load the atlases, or the region table of ready-made series."""
        config = configuration.load(path)
        if dataset not in config.datasets:
            raise ConfigError(f"{path} has no dataset {dataset!r}; known: {', '.join(config.datasets)}.")
        section = config.datasets[dataset]
        if section.stage != "parcellate":
            raise ConfigError(f"{path}: {dataset} holds {section.content}s, no series; run `neuropipe volumes`.")
        if section.ready_made:
            atlases, regions = [], doors.regions(section)
        else:
            atlas_files.common_space(config.atlases, config.warp)
            atlases = [atlas_files.load(spec) for spec in config.atlases]
            regions = atlas_files.regions(atlases)
        settings = {
            "clean": config.clean.model_dump(),
            "exclude": config.exclude.model_dump(include={"min_region_coverage"}),
            "atlases": [{"id": a.id, "space": a.space, "sha256": a.checksum} for a in atlases],
            "regions": provenance.hash_json(
                [*(a.table.astype(str).values.tolist() for a in atlases), regions.order_hash]
            ),
        }
        if section.ready_made:
            names = regions.table["name"].tolist()  # columns are found by them
            settings |= {"as_is": section.keeps_values, "names": provenance.hash_json(names)}
        root = data_root(Path(configuration.expand(section.path)))
        return cls(dataset, root, config, atlases, regions, settings)

    def weights_on(self, image: Path, space: str) -> Weights:
        """Return the atlases on the grid of an image of `space`; runs of one study share a few grids."""
        shape, affine = grid_of(image)
        key = (space, shape[:3], affine.tobytes())
        return self._kept(key, lambda: on_run(self.warp.onto(self.atlases, space, shape, affine), shape, affine))

    def labels_on(self, series: surface.Series) -> Merged:
        """Return the atlases on the columns of a surface series."""
        key = (surface.fingerprint(series.columns),)
        return self._kept(key, lambda: surface.merge(self.atlases, series.columns))

    def _kept(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self.grids:
            if len(self.grids) >= GRIDS_KEPT:
                self.grids.pop(next(iter(self.grids)))
            self.grids[key] = make()
        return self.grids[key]

    def regional_means(self, row: dict[str, str]) -> tuple[Extraction, int]:
        """Average a run over the regions; return also how many voxels or vertices several atlases claim."""
        images = [self.root / path for path in entities.hemispheres(row["image"])]
        if entities.on_surface(row["image"]):
            if self.config.clean.smoothing_fwhm_mm:
                raise ConfigError("clean.smoothing_fwhm_mm smooths volumes only; set it to null for surface series.")
            series = surface.open_series(images)
            labels = self.labels_on(series)
            return surface.extract(series, labels), labels.n_overlapping
        weights, settings = self.weights_on(images[0], row["space"]), self.config.clean
        averaging = {"smoothing_fwhm_mm": settings.smoothing_fwhm_mm, "maps": settings.maps}
        return extract(images[0], self.root / row["mask"], weights, **averaging), weights.n_overlapping

    @property
    def stamp(self) -> str:
        """Hash by which a worker knows that the configuration is still that of the job."""
        return provenance.hash_json([self.settings, self.config.exclude.model_dump()])

    def fingerprint(self, row: dict[str, str]) -> str:
        """Return the hash over a run's inputs, the settings and the stage's version."""
        own = [row[column] for column in ("run_id", "space", "t_r", "start_time_s", "n_volumes", "fingerprint")]
        if self.config.warp and self.atlases:
            own.append(provenance.hash_json(self.warp.used(self.atlases, row["space"])))
        return provenance.hash_json([own, self.settings, provenance.STAGE_VERSIONS["parcellate"]])


def attempt(job: Job, row: dict[str, str]) -> CleanRun | RunExcluded:
    """Compute one run, or return why it is left out; every other error is a bug and goes on up."""
    return chunk.attempt(process, job, row)


def process(job: Job, row: dict[str, str]) -> CleanRun:
    """Compute one run; threads of the linear algebra are held at one, so that bytes do not depend on the machine."""
    with threadpool_limits(limits=1):
        if job.atlases:
            return _process_images(job, row)
        return _process_series(job, row)


def _process_images(job: Job, row: dict[str, str]) -> CleanRun:
    config, t_r, n_volumes = job.config, float(row["t_r"]), int(row["n_volumes"])
    space = atlas_files.common_space(config.atlases, config.warp)
    if not config.warp and row["space"] != space:
        what_to_do = atlas_files.advice([atlas.id for atlas in job.atlases], row["space"])
        raise RunExcluded(
            "wrong space",
            f"expected images in {space}, the space of the atlases, found {row['space']}; {what_to_do}; "
            "or correct select and index again",
        )
    path = job.root / row["confounds"]
    table = confound_tables.read_table(path, n_volumes)
    confounds = confound_tables.prepare(table, confound_tables.read_description(path), config.clean)
    # What motion alone rules out is not worth inflating an image for.
    known = quality_before(confounds, t_r, config.clean)
    with remembered(known, lambda: motion_only(confounds, t_r)):
        quality.check(known, config.exclude)
    means, n_overlapping = job.regional_means(row)
    if len(means.series) != n_volumes:
        raise RunExcluded("changed since index", f"{row['image']} has {len(means.series)} volumes, not {n_volumes}")
    sections = config.clean, config.exclude
    result = clean_run(means.series, t_r, confounds, *sections, n_used=means.n_used, coverage=means.coverage)
    result.facts["VoxelsWithoutSignal"] = means.n_without_signal
    result.facts["VoxelsOfSeveralAtlases"] = n_overlapping
    if row["start_time_s"] != "n/a":  # of the first sample, which may not be the first volume
        result.facts["StartTime"] = float(row["start_time_s"]) + confounds.n_leading * t_r
    if config.warp:
        result.facts["WarpedAtlases"] = job.warp.used(job.atlases, row["space"])
    return result


def _process_series(job: Job, row: dict[str, str]) -> CleanRun:
    """Regress nothing: what was regressed from ready-made series, its door knows."""
    section = job.config.datasets[job.dataset]
    ready = doors.read(section, job.regions, job.root, row)
    if ready.region_order_hash not in (None, job.regions.order_hash):
        raise RunExcluded(
            "wrong regions",
            f"expected regions in the order {job.regions.order_hash}, found {ready.region_order_hash}; correct "
            "atlas or regions of the dataset",
        )
    table = job.regions.table
    labels = ready.names, table["label"].tolist(), table["name"].tolist(), ready.named
    raw, coverage = series_tables.align(ready.series, *labels), ready.coverage
    if coverage is not None:
        coverage = np.nan_to_num(series_tables.align(coverage[None], *labels)[0])
    confounds = without_confounds(len(raw), ready.censored, ready.fd_mm)
    if not section.keeps_values:
        confounds = confound_tables.cut(confounds, job.config.clean.n_dummy)
    process_run = keep_run if section.keeps_values else clean_run
    sections = job.config.clean, job.config.exclude
    result = process_run(raw, float(row["t_r"]), confounds, *sections, coverage=coverage, known=ready.known)
    result.facts["Source"] |= ready.done
    return result
