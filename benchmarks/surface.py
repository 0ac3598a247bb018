"""Regional series of surface runs: ours, and nibabel (or nilearn) with numpy, side by side.

    python benchmarks/surface.py            # 91,282 grayordinates x 300 and fsaverage5 x 300; a minute, 1.5 GB of files
    python benchmarks/surface.py --small    # seconds, for a test of this script

Every measurement is a process of its own: CPU seconds (user and system, one thread) without imports, atlas apart, and
the peak of its resident memory, imports included. `next` is a further run of the same study in the same process, as
nearly all are: the lists of vertices are parsed once. The last line is JSON: CPU times of nibabel or nilearn over ours
(speed-ups), and peaks in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.cifti2 import BrainModelAxis, SeriesAxis
from nibabel.gifti import GiftiDataArray, GiftiImage

N_REGIONS = 400
GRID, AFFINE = (91, 109, 91), np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
LONG = 10  # times the volumes


# --- files --------------------------------------------------------------------------------------


def labels_of(n_vertices: int) -> list[np.ndarray]:
    """Return N_REGIONS labels of equal size on the meshes of both hemispheres."""
    half = np.arange(n_vertices) * (N_REGIONS // 2) // n_vertices + 1
    return [half, half + N_REGIONS // 2]


def make_dense(path: Path, n_vertices: int, n_voxels: int, n_volumes: int) -> None:
    """Write a dense series laid out as the 91k grayordinates are: a tenth of each mesh is medial wall."""
    rng = np.random.default_rng(0)
    kept = np.flatnonzero(np.arange(n_vertices) % 11 != 3)
    columns = BrainModelAxis.from_surface(kept, n_vertices, "CORTEX_LEFT")
    columns += BrainModelAxis.from_surface(kept, n_vertices, "CORTEX_RIGHT")
    voxels = np.sort(rng.permutation(np.prod(GRID))[:n_voxels])
    columns += BrainModelAxis(
        name="CIFTI_STRUCTURE_CEREBELLUM_LEFT",
        voxel=np.stack(np.unravel_index(voxels, GRID), axis=1),
        affine=AFFINE,
        volume_shape=GRID,
    )
    data = 1000 + 10 * rng.standard_normal((n_volumes, len(columns)), dtype=np.float32)
    image = nib.Cifti2Image(data, (SeriesAxis(0, 2.0, n_volumes), columns))
    image.update_headers()
    nib.save(image, path)


def make_hemisphere(path: Path, n_vertices: int, n_volumes: int, seed: int) -> None:
    """Write a functional series, one array per volume."""
    data = 1000 + 10 * np.random.default_rng(seed).standard_normal((n_volumes, n_vertices), dtype=np.float32)
    about = {"intent": "NIFTI_INTENT_TIME_SERIES", "datatype": "NIFTI_TYPE_FLOAT32"}
    nib.save(GiftiImage(darrays=[GiftiDataArray(volume, **about) for volume in data]), path)


# --- tasks, each run in a process of its own ------------------------------------------------------


def ours(files: list[Path], n_vertices: int) -> Callable[[], np.ndarray]:
    """Open, match columns to labels, and average, as the stage `parcellate` does."""
    import pandas as pd

    from neuropipe.signals import surface

    names = ("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT")
    meshes = dict(zip(names, labels_of(n_vertices), strict=True))
    table = pd.DataFrame({"value": range(1, N_REGIONS + 1)})
    atlas = surface.SurfaceAtlas("benchmark", "fsLR", table, "", meshes, None, None)
    merged = {}

    def work() -> np.ndarray:
        series = surface.open_series(files)
        key = surface.fingerprint(series.columns)
        if key not in merged:
            merged[key] = surface.merge([atlas], series.columns)
        return surface.extract(series, merged[key]).series

    return work


def nibabel_dense(files: list[Path], n_vertices: int) -> Callable[[], np.ndarray]:
    """Load everything, look the labels up by vertex, and take the mean of each region's columns."""
    meshes = labels_of(n_vertices)

    def work() -> np.ndarray:
        image = nib.load(files[0])
        data, columns = image.get_fdata(), image.header.get_axis(1)
        labels = np.zeros(len(columns), dtype=int)
        for name, mesh in zip(("LEFT", "RIGHT"), meshes, strict=True):
            here = columns.name == f"CIFTI_STRUCTURE_CORTEX_{name}"
            labels[here] = mesh[columns.vertex[here]]
        return np.stack([data[:, labels == n].mean(axis=1) for n in range(1, N_REGIONS + 1)], axis=1)

    return work


def nibabel_pair(files: list[Path], n_vertices: int) -> Callable[[], np.ndarray]:
    """Load both hemispheres and take the mean of each region's vertices."""
    labels = np.concatenate(labels_of(n_vertices))

    def work() -> np.ndarray:
        data = np.concatenate([nib.load(file).agg_data().T for file in files], axis=1)
        return np.stack([data[:, labels == n].mean(axis=1) for n in range(1, N_REGIONS + 1)], axis=1)

    return work


def nilearn_pair(files: list[Path], n_vertices: int) -> Callable[[], np.ndarray]:
    """Average with nilearn's masker, without cleaning."""
    from nilearn.maskers import SurfaceLabelsMasker
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    points = np.random.default_rng(0).normal(size=(n_vertices, 3))
    half = InMemoryMesh(points, np.array([[0, 1, 2]]))
    mesh, (left, right) = PolyMesh(left=half, right=half), labels_of(n_vertices)
    masker = SurfaceLabelsMasker(SurfaceImage(mesh, {"left": left, "right": right}), standardize=None, reports=False)

    def work() -> np.ndarray:
        return masker.fit_transform(SurfaceImage(mesh, {"left": files[0], "right": files[1]}))

    return work


TASKS = {task.__name__: task for task in (ours, nibabel_dense, nibabel_pair, nilearn_pair)}


def peak_mb() -> float:
    """Return the highest resident memory of this process so far (that of its parent, before it started, apart)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure_here(task: str, files: list[Path], n_vertices: int, output: Path) -> None:
    """Run one task twice in this process; save its series and print what it took."""
    work, taken = TASKS[task](files, n_vertices), []
    for _ in range(2):
        begun = time.process_time()
        series = work()
        taken.append(time.process_time() - begun)
    np.save(output, series)
    print(json.dumps({"first": taken[0], "next": taken[1], "peak_mb": peak_mb()}))


def measure(task: str, files: list[Path], n_vertices: int, repeats: int) -> tuple[dict[str, float], np.ndarray]:
    """Run a task in processes of its own; return the medians and its series."""
    output = files[0].parent / f"{task}.npy"
    named = ["--task", task, "--vertices", str(n_vertices), "--output", output, "--files", *files]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, __file__, *map(str, named)], env=one_thread, check=True, stdout=subprocess.PIPE, text=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    print(f"{task:<14}{files[0].name:<20}" + "".join(f"{key} {value:<9.3f}" for key, value in medians.items()))
    return medians, np.load(output)


def compare(folder: Path, small: bool, repeats: int) -> dict[str, float]:
    """Print the figures of each kind of file and return the ratios."""
    n_vertices, n_voxels, mesh, n_volumes = (400, 300, 500, 20) if small else (32492, 31870, 10242, 300)
    dense, long = folder / "a.dtseries.nii", folder / "long.dtseries.nii"
    make_dense(dense, n_vertices, n_voxels, n_volumes)
    make_dense(long, n_vertices, n_voxels, LONG * n_volumes)
    pair = [folder / f"hemi-{side}.func.gii" for side in "LR"]
    for seed, path in enumerate(pair):
        make_hemisphere(path, mesh, n_volumes, seed)
    ratios = {}
    mine, series = measure("ours", [dense], n_vertices, repeats)
    theirs, expected = measure("nibabel_dense", [dense], n_vertices, repeats)
    np.testing.assert_allclose(series, expected, rtol=1e-5)
    longer, _ = measure("ours", [long], n_vertices, repeats)
    ratios |= {"dense_first_over_nibabel": theirs["first"] / mine["first"]}
    ratios |= {"dense_next_over_nibabel": theirs["next"] / mine["next"]}
    ratios |= {"dense_peak_mb": mine["peak_mb"], "dense_nibabel_peak_mb": theirs["peak_mb"]}
    ratios |= {f"dense_{LONG}_times_longer_peak_mb": longer["peak_mb"]}
    mine, series = measure("ours", pair, mesh, repeats)
    for rival in ("nibabel_pair", "nilearn_pair"):
        theirs, expected = measure(rival, pair, mesh, repeats)
        np.testing.assert_allclose(series, expected, rtol=1e-5)
        name = rival.removesuffix("_pair")
        ratios |= {f"pair_over_{name}": theirs["next"] / mine["next"], f"pair_{name}_peak_mb": theirs["peak_mb"]}
    return ratios | {"pair_peak_mb": mine["peak_mb"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small files, to test the script")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--vertices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.task:
        measure_here(chosen.task, chosen.files, chosen.vertices, chosen.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), chosen.small, chosen.repeats)))


if __name__ == "__main__":
    main()
