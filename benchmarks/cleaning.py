"""What cleaning costs beside nilearn's, and what it does to ready-made series of ABIDE.

    python benchmarks/cleaning.py                               # seconds
    python benchmarks/cleaning.py --abide DATA/abide_cc200      # a minute: 20 raw tables and the bank of 608 people

Times are CPU milliseconds of one process with one thread, medians; imports are not counted. The second part cleans each
person with the preset `cc200`, without and with the mean over regions regressed, and prints the mean over people. The
last line is JSON: times, and nilearn's over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from neuropipe import config
from neuropipe.bids.series_tables import read_table
from neuropipe.config import Clean, Exclude
from neuropipe.signals.clean import clean
from neuropipe.signals.run import clean_run, without_confounds

T_R, N_CONFOUNDS = 2.0, 24


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Return the median CPU time of a piece of work in ms, after one run that does not count."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(1000 * (time.process_time() - start))
    return statistics.median(spent)


def speed(n_volumes: int, n_regions: int, repeats: int) -> dict[str, float]:
    """Time projection, Butterworth and nilearn on the same series, and compare the last two."""
    from nilearn.signal import clean as nilearn_clean

    rng = np.random.default_rng(0)
    series = 1000 + rng.normal(size=(n_volumes, n_regions)).cumsum(axis=0)
    regressors = rng.normal(size=(n_volumes, N_CONFOUNDS)).cumsum(axis=0)
    censored = np.arange(n_volumes) % 30 == 7
    about = {"t_r": T_R, "confounds": regressors, "sample_mask": ~censored, "high_pass": 0.01, "low_pass": 0.1}
    found = {}
    for name in ("projection", "butterworth"):
        settings = Clean(filter=name, t_r=None, standardize="zscore_sample")
        found[f"{name}_ms"] = median_ms(lambda s=settings: clean(series, T_R, regressors, censored, s), repeats)
    found["nilearn_ms"] = median_ms(lambda: nilearn_clean(series, **about), repeats)
    for name in ("projection", "butterworth"):
        found[f"{name}_over_nilearn"] = found["nilearn_ms"] / found[f"{name}_ms"]
    ours = clean(series, T_R, regressors, censored, settings).series[~censored]
    difference = np.abs(ours - nilearn_clean(series, **about)).max()
    print(f"{n_volumes} volumes, {n_regions} regions, {N_CONFOUNDS} confounds, {censored.sum()} censored volumes")
    for name in ("projection", "butterworth", "nilearn"):
        print(f"  {name:12} {found[f'{name}_ms']:8.1f} ms")
    print(f"  largest difference of Butterworth from nilearn, in standard deviations: {difference:.1e}")
    return found


def raw_tables(folder: Path) -> Iterator[np.ndarray]:
    """Yield the series of the original tables."""
    for path in sorted((folder / "raw").glob("*.1D")):
        yield read_table(path)[0]


def bank(folder: Path) -> Iterator[np.ndarray]:
    """Yield the series of the bank, person by person."""
    with np.load(folder / "series.npz") as content:
        bold, offsets = content["bold"], content["offsets"]
    for start, end in pairwise(offsets):
        yield bold[start:end].astype(np.float64)


def looks(series: np.ndarray, t_r: float) -> dict[str, float]:
    """Return what connectivity and spectrum of one person look like; regions without signal do not count."""
    series = series[:, np.isfinite(series).all(axis=0) & (series.std(axis=0) > 0)]
    edges = np.corrcoef(series.T)[np.triu_indices(series.shape[1], 1)]
    power = (np.abs(np.fft.rfft(series - series.mean(axis=0), axis=0)) ** 2).mean(axis=1)
    frequency = np.fft.rfftfreq(len(series), t_r)
    outside = power[(frequency < 0.01) | (frequency > 0.1)].sum() / power.sum()
    return {"mean r": edges.mean(), "sd r": edges.std(), "r < 0": (edges < 0).mean(), "outside band": outside}


def abide(folder: Path) -> None:
    """Print how the preset `cc200` changes the people of ABIDE, without and with the mean signal."""
    people = pd.read_csv(folder / "participants.tsv", sep="\t").set_index("file_id")
    files = [path.name.removesuffix("_rois_cc200.1D") for path in sorted((folder / "raw").glob("*.1D"))]
    study = config.parse({"study": "s", "datasets": {"d": {"kind": "series", "path": "-"}}, "preset": "cc200"})
    for title, source, names in (("raw tables", raw_tables, files), ("bank", bank, list(people.index))):
        rows: dict[str, list[dict[str, float]]] = {"as they come": [], "band-pass": [], "band-pass, mean signal": []}
        for series, name in zip(source(folder), names, strict=True):
            t_r = float(people.loc[name, "t_r"])
            rows["as they come"].append(looks(series, t_r))
            for step, with_mean in (("band-pass", False), ("band-pass, mean signal", True)):
                settings = study.clean.model_copy(update={"mean_signal": with_mean})
                limits = Exclude(max_missing_regions=None)
                found = clean_run(series, t_r, without_confounds(len(series)), settings, limits)
                rows[step].append(looks(found.series, t_r))
        print(f"\nABIDE, {title}: {len(names)} people, means over people")
        print(pd.DataFrame({step: pd.DataFrame(seen).mean() for step, seen in rows.items()}).T.round(3).to_string())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="seconds, for a test of this script")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--abide", type=Path, metavar="DIR", help="folder with raw/, series.npz and participants.tsv")
    chosen = parser.parse_args()
    found = speed(*((120, 20) if chosen.small else (300, 457)), chosen.repeats)
    if chosen.abide:
        abide(chosen.abide)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


if __name__ == "__main__":
    main()
