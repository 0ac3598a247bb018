"""Regional series of one run: ours, nilearn's masker and the mere inflation of the same file, side by side.

    python benchmarks/parcellate.py            # 97 x 115 x 97 x 300, about 15 minutes and 6 GB of temporary files
    python benchmarks/parcellate.py --small    # seconds, for a test of this script

Every measurement is a process of its own: wall seconds without imports and without loading atlas and confounds, and
the peak of its resident memory, imports included. Cleaning is a band-pass (0.01-0.1 Hz) with 24 confounds and z-scores;
`ours` cleans by the one projection that is the default, `butterworth` by the filter that equals nilearn's. The last
line is JSON: times of nilearn over ours (speed-ups), of ours over inflation, peaks in MB.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE, T_R, N_CONFOUNDS = (97, 115, 97), 2.0, 24
AFFINE = np.array([[2.0, 0, 0, -96.5], [0, 2, 0, -132.5], [0, 0, 2, -78.5], [0, 0, 0, 1]])
ATLASES = {"cortex": 400, "subcortex": 50, "cerebellum": 7}
SCALING = (0.0213, 41.5)  # of the int16 file with scl_slope and scl_inter
KINDS = ("int16", "int16_scaled", "float32")
N_MAPS = 1024  # DiFuMo's
FILTERS = ("projection", "butterworth")
MAPS = {
    "weighted mean": {"maps": "weighted_mean"},
    "least squares": {"maps": "least_squares"},
    "least squares, 3 mm": {"maps": "least_squares", "smoothing_fwhm_mm": 3.0},
}
# A label file as it is published, with float32 labels on the grid of the images; found below NEUROPIPE_DATA.
PUBLISHED = "atlases/Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_3T_MNI152NLin2009cAsym_2mm.nii.gz"


# --- files --------------------------------------------------------------------------------------


def make_atlases(folder: Path, shape: tuple[int, ...]) -> None:
    """Write a brain mask and three disjoint label images: shells and slabs of an ellipsoid, cut into cells."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    where = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1)
    radius = np.linalg.norm(where / [0.75, 0.8, 0.75], axis=-1)
    nib.save(nib.Nifti1Image((radius < 1).astype(np.uint8), AFFINE), folder / "mask.nii.gz")
    floor = where[..., 2] < -0.45
    parts = {
        "cortex": (radius > 0.72) & (radius < 1) & ~floor,
        "subcortex": radius < 0.3,
        "cerebellum": (radius < 1) & floor,
    }
    for name, n_regions in ATLASES.items():
        inside = parts[name]
        points = where[inside]
        cells = cKDTree(points[rng.choice(len(points), n_regions, replace=False)]).query(points)[1]
        labels = np.zeros(shape, dtype=np.int32)
        labels[inside] = cells + 1
        nib.save(nib.Nifti1Image(labels, AFFINE), folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels.astype(np.float32), AFFINE), folder / f"{name}_float.nii.gz")


def make_image(path: Path, kind: str, shape: tuple[int, ...], n_volumes: int, copies: int = 1) -> None:
    """Write a run with a smooth mean, network signals and noise, volume by volume, at nibabel's level of gzip.

    With `copies` the volumes are repeated as further members of the gzip file, which is as long to read and quick to
    write.
    """
    rng = np.random.default_rng(1)
    x, y, z = (np.linspace(-1, 1, n) for n in shape)
    radius = np.sqrt((x / 0.75)[:, None, None] ** 2 + (y / 0.8)[None, :, None] ** 2 + (z / 0.75)[None, None, :] ** 2)
    mean = 1100 * np.clip(1.15 - radius, 0, 1) + 40 * np.cos(9 * x)[:, None, None] * (radius < 1) + 12
    weight = np.stack([np.cos(k * (1 + y))[None, :, None] * (radius < 1) for k in range(1, 5)])
    signal = rng.standard_normal((n_volumes, 4)).cumsum(axis=0)
    header = nib.Nifti1Header()
    header.set_data_shape((*shape, n_volumes * copies))
    header.set_data_dtype(np.float32 if kind == "float32" else np.int16)
    header.set_sform(AFFINE, code=4)
    header.set_qform(AFFINE, code=4)
    header.set_zooms((2.0, 2.0, 2.0, T_R))
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    if kind == "int16_scaled":
        header["scl_slope"], header["scl_inter"] = SCALING
    with gzip.open(path, "wb", compresslevel=1) as handle:
        handle.write(header.binaryblock + b"\0" * 4)
    body = path.with_suffix(".body")
    with gzip.open(body, "wb", compresslevel=1) as handle:
        for row in signal:
            volume = mean + np.tensordot(row, weight, axes=1) + 8 * rng.standard_normal(shape, dtype=np.float32)
            if kind == "int16_scaled":
                volume = (volume - SCALING[1]) / SCALING[0]
            stored = volume.astype(np.float32) if kind == "float32" else np.rint(volume).astype(np.int16)
            handle.write(stored.tobytes(order="F"))
    if copies == 1:  # one member, as every writer makes it
        with gzip.open(body) as source, gzip.open(path, "wb", compresslevel=1) as target:
            target.write(header.binaryblock + b"\0" * 4)
            while block := source.read(1 << 24):
                target.write(block)
    else:
        content = body.read_bytes()
        with open(path, "ab") as target:
            for _ in range(copies):
                target.write(content)
    body.unlink()


# --- tasks, each run in a process of its own ------------------------------------------------------


def confounds(n_volumes: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((n_volumes, N_CONFOUNDS)).cumsum(axis=0)


def inflate(image: Path, **_: object) -> Callable[[], None]:
    """Read the file to its end and do nothing with it."""
    from isal import igzip

    def work() -> None:
        buffer = bytearray(1 << 22)
        with igzip.open(image) as stream:
            while stream.readinto(buffer):
                pass

    return work


def blobs(folder: Path) -> Any:
    """Return an atlas of overlapping maps, as large as DiFuMo's: Gaussian blobs within the mask."""
    import pandas as pd
    from scipy import sparse

    from neuropipe.signals import images
    from neuropipe.signals.atlases import Atlas

    brain, affine = images.read_volume(folder / "mask.nii.gz")
    rng = np.random.default_rng(0)
    ball = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    weight = np.exp(-(ball**2).sum(axis=1) / (2 * 4.0**2))
    ball, weight = ball[weight > 0.05], weight[weight > 0.05].astype(np.float32)
    voxels, weights = [], []
    for centre in rng.choice(np.argwhere(brain > 0.5), N_MAPS, replace=False):
        inside = ((centre + ball >= 0) & (centre + ball < brain.shape)).all(axis=1)
        voxels.append(np.ravel_multi_index(tuple((centre + ball[inside]).T), brain.shape, order="F"))
        weights.append(weight[inside])
    starts = np.cumsum([0, *map(len, voxels)])
    maps = sparse.csc_array((np.concatenate(weights), np.concatenate(voxels), starts), shape=(brain.size, N_MAPS))
    return Atlas(
        "maps", "benchmark", pd.DataFrame({"value": range(1, N_MAPS + 1)}), None, affine, "", maps, brain.shape
    )


def ours(image: Path, folder: Path, atlases: list[str], cleaning: str, n_volumes: int) -> Callable[[], np.ndarray]:
    """Extract and clean as the stage `parcellate` does."""
    import pandas as pd
    from threadpoolctl import threadpool_limits

    from neuropipe.config import Clean
    from neuropipe.signals import images
    from neuropipe.signals.atlases import Atlas, integer_labels
    from neuropipe.signals.clean import clean
    from neuropipe.signals.extract import extract, grid_of
    from neuropipe.signals.weights import on_run

    loaded = [blobs(folder)] if atlases == ["maps"] else []
    for name in atlases if not loaded else []:
        values, affine = images.read_volume(folder / f"{name}.nii.gz")
        labels = integer_labels(values, folder)
        table = pd.DataFrame({"value": range(1, labels.max() + 1)})
        loaded.append(Atlas(name, "benchmark", table, labels, affine, ""))
    weights = on_run(loaded, *grid_of(image))
    regressors, none_censored = confounds(n_volumes), np.zeros(n_volumes, dtype=bool)
    averaging, settings = MAPS.get(cleaning, {}), None
    if cleaning in FILTERS:
        settings = Clean(filter=cleaning, t_r=None, standardize="zscore_sample")

    def work() -> np.ndarray:
        with threadpool_limits(limits=1):
            means = extract(image, folder / "mask.nii.gz", weights, **averaging).series
            if settings is None:
                return means
            return clean(means, T_R, regressors, none_censored, settings).series

    return work


def nilearn(image: Path, folder: Path, atlases: list[str], cleaning: str, n_volumes: int) -> Callable[[], np.ndarray]:
    """Extract and clean with one masker per atlas."""
    from nilearn.maskers import NiftiLabelsMasker

    about = {"standardize": None}
    if cleaning != "none":
        about = {"standardize": "zscore_sample", "detrend": True, "high_pass": 0.01, "low_pass": 0.1, "t_r": T_R}
    regressors = None if cleaning == "none" else confounds(n_volumes)
    maskers = [
        NiftiLabelsMasker(
            str(folder / f"{name}.nii.gz"), mask_img=str(folder / "mask.nii.gz"), reports=False, **about
        ).fit()
        for name in atlases
    ]
    return lambda: np.concatenate([m.transform(str(image), confounds=regressors) for m in maskers], axis=1)


TASKS = {"inflate": inflate, "ours": ours, "nilearn": nilearn}


def peak_mb() -> float:
    """Return the highest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def one(task: str, image: Path, atlases: list[str], cleaning: str, n_volumes: int, result: str | None) -> None:
    """Run one task once and print its figures."""
    work = TASKS[task](image=image, folder=image.parent, atlases=atlases, cleaning=cleaning, n_volumes=n_volumes)
    begun, cpu = time.perf_counter(), time.process_time()
    series = work()
    print(json.dumps({"s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu, "mb": peak_mb()}))
    if result:
        np.save(result, series)


# --- the comparison -------------------------------------------------------------------------------


class Bench:
    """Runs tasks in fresh processes and keeps their medians."""

    def __init__(self, folder: Path, repeats: int, n_volumes: int) -> None:
        self.folder, self.repeats, self.n_volumes = folder, repeats, n_volumes

    def measure(
        self, task: str, kind: str, atlases: str = "cortex", cleaning: str = "none", repeats: int | None = None
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """Return the medians of wall, CPU and memory, and the series."""
        image, result = self.folder / f"{kind}.nii.gz", self.folder / "series.npy"
        n_volumes = nib.load(image).shape[3]
        command = [sys.executable, __file__, "--task", task, "--image", str(image), "--atlases", atlases]
        command += ["--cleaning", cleaning, "--volumes", str(n_volumes)]
        command += [] if task == "inflate" else ["--result", str(result)]
        found = []
        for _ in range(repeats or self.repeats):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        medians = {key: statistics.median(f[key] for f in found) for key in found[0]}
        label = f"{kind}, {atlases.replace(',', ' + ')}" + (f", {cleaning}" if cleaning != "none" else "")
        print(
            f"{task:<9}{label:<62}{medians['s']:8.2f} s{medians['cpu_s']:8.2f} CPU s{medians['mb']:8.0f} MB", flush=True
        )
        return medians, None if task == "inflate" else np.load(result)


def compare(bench: Bench, long_volumes: int, kinds: Sequence[str]) -> dict[str, float]:
    """Print the table, side by side with nilearn for images of `kinds`; return the ratios."""
    found: dict[str, float] = {}
    peaks = []
    for kind in kinds:
        plain, _ = bench.measure("inflate", kind)
        means, series = bench.measure("ours", kind)
        cleaned, _ = bench.measure("ours", kind, cleaning="projection")
        same, filtered = bench.measure("ours", kind, cleaning="butterworth")
        theirs_means, expected = bench.measure("nilearn", kind, repeats=min(bench.repeats, 3))
        theirs, expected_clean = bench.measure("nilearn", kind, cleaning="butterworth", repeats=min(bench.repeats, 3))
        peaks += [means["mb"], cleaned["mb"]]
        found[f"{kind}_over_nilearn"] = theirs["s"] / cleaned["s"]
        found[f"{kind}_butterworth_over_nilearn"] = theirs["s"] / same["s"]
        found[f"{kind}_means_over_nilearn"] = theirs_means["s"] / means["s"]
        found[f"{kind}_over_inflate"] = cleaned["s"] / plain["s"]
        found[f"{kind}_means_difference"] = difference(series, expected)
        found[f"{kind}_clean_difference"] = difference(filtered, expected_clean)
    three, _ = bench.measure("ours", "int16", ",".join(ATLASES), "projection")
    single, _ = bench.measure("ours", "int16", "cortex", "projection")
    found["three_atlases_over_one"] = three["s"] / single["s"]
    labels = "published" if (bench.folder / "published.nii.gz").is_file() else "cortex_float"
    floats, _ = bench.measure("ours", "int16", labels, "projection")
    slow, _ = bench.measure("nilearn", "int16", labels, "butterworth", repeats=1)
    found["float_labels_over_nilearn"] = slow["s"] / floats["s"]
    long, _ = bench.measure("ours", "long", ",".join(ATLASES), "projection", repeats=1)
    for name in MAPS:
        maps, _ = bench.measure("ours", "int16", "maps", name, repeats=1)
        found[f"maps_{'_'.join(name.replace(',', '').split())}_s"] = maps["s"]
    found |= {
        "peak_mb": max(peaks),
        "three_atlases_peak_mb": three["mb"],
        f"peak_{long_volumes}_volumes_mb": long["mb"],
    }
    return found


def difference(series: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest value; nothing below the last bit of float32."""
    assert series.shape == expected.shape
    return max(float(np.abs(series - expected).max() / np.abs(expected).max()), 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small image, to test the script")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the images here, and use those that are there")
    for name in ("--task", "--image", "--atlases", "--cleaning", "--volumes", "--result"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.task:
        names = (chosen.atlases or "cortex").split(",")
        one(chosen.task, Path(chosen.image), names, chosen.cleaning, int(chosen.volumes), chosen.result)
        return
    shape, n_volumes, copies = ((31, 37, 31), 120, 2) if chosen.small else (SHAPE, 300, 10)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mask.nii.gz").is_file():
            make_atlases(folder, shape)
        published = Path(os.environ.get("NEUROPIPE_DATA", "")) / PUBLISHED
        if published.is_file() and not chosen.small:
            shutil.copyfile(published, folder / "published.nii.gz")
        kinds = KINDS[:1] if chosen.small else KINDS
        for kind in (*kinds, "long"):
            if not (folder / f"{kind}.nii.gz").is_file():
                make_image(folder / f"{kind}.nii.gz", kind, shape, n_volumes, copies if kind == "long" else 1)
                print(f"made {kind}: {(folder / f'{kind}.nii.gz').stat().st_size / 1e6:.0f} MB", flush=True)
        print(json.dumps(compare(Bench(folder, chosen.repeats, n_volumes), n_volumes * copies, kinds)))


if __name__ == "__main__":
    main()
