"""Small outputs of other programs, laid out as those write them, and the way from them to shards."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from scipy.fft import idct

from neuropipe.bids import anatomy, doors
from neuropipe.bids.anatomy import Map
from neuropipe.bids.index import read_tsv
from neuropipe.config import Dataset
from neuropipe.errors import RunExcluded
from neuropipe.shards.read import Shards
from neuropipe.stages import collect, index, parcellate, shard

OFF = dict.fromkeys(
    ["max_mean_fd_mm", "max_censored_share", "min_duration_s", "min_degrees_of_freedom", "max_missing_regions"]
)
N_VOLUMES, T_R = 160, 2.0
NAMES = ["LH_Vis_1", "LH_Default_2", "RH_Vis_1", "RH_Cont_1"]


def planted(seed: int, n_regions: int = len(NAMES), n_volumes: int = N_VOLUMES, t_r: float = T_R) -> np.ndarray:
    """Return series (time, region) of cosines between 0.01 and 0.1 Hz only, which a band-pass leaves alone."""
    frequency = np.arange(n_volumes) / (2 * n_volumes * t_r)
    weights = np.random.default_rng(seed).normal(size=(n_volumes, n_regions))
    weights[(frequency < 0.011) | (frequency > 0.099)] = 0
    return idct(weights, axis=0, norm="ortho")


def zscored(series: np.ndarray, kept: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Return each region with mean 0 and population variance 1 over the `kept` volumes."""
    return (series - series[kept].mean(axis=0)) / series[kept].std(axis=0)


def people(root: Path, *labels: str, **columns: Sequence[str]) -> None:
    """Write ``participants.tsv``."""
    rows = ["\t".join(["participant_id", *columns])]
    rows += ["\t".join([label, *(values[i] for values in columns.values())]) for i, label in enumerate(labels)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")


def table(path: Path, values: np.ndarray, names: Sequence[Any], na: str = "n/a") -> None:
    """Write a tsv with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [[na if np.isnan(v) else repr(float(v)) for v in row] for row in values]
    path.write_text("\n".join("\t".join(map(str, row)) for row in [names, *rows]) + "\n")


# --- from a folder to shards --------------------------------------------------------------------


def configured(root: Path, dataset: Mapping[str, Any], **sections: Any) -> Path:
    """Write ``config.yaml`` with one dataset ``d``."""
    content = {"study": "s", "datasets": {"d": {"n_chunks": 1, **dataset}}}
    content |= {"clean": {"strategy": "none"}, "exclude": OFF, "shards": {"dtype": "float32"}} | sections
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    return root / "config.yaml"


def indexed(root: Path, dataset: Mapping[str, Any], **sections: Any) -> tuple[dict[str, dict], dict[str, str]]:
    """Return the manifest rows by run id, and the reasons of what was left out by path."""
    config = configured(root, dataset, **sections)
    index.run(config=str(config), dataset="d", output=str(root / "s/index/d"))
    runs = {row["run_id"]: row for row in read_tsv(root / "s/index/d/runs.tsv").to_dict("records")}
    excluded = {row["path"]: row["reason"] for row in read_tsv(root / "s/index/d/excluded.tsv").to_dict("records")}
    return runs, excluded


def scans(root: Path, dataset: Mapping[str, Any]) -> tuple[dict[str, dict], dict[str, str], dict[str, Map]]:
    """Index scans of anatomy and read them; return rows by run id, reasons by path, and what was read by run id."""
    section = Dataset.model_validate(dataset)
    runs, excluded = indexed(root, dataset)
    read = {}
    for run_id, row in runs.items():
        try:
            read[run_id] = anatomy.read(section, doors.data_root(section), row)
        except RunExcluded as reason:
            excluded[row["image"]] = reason.reason
    return runs, excluded, read


def cleaned(root: Path, dataset: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """Index and parcellate; return the receipt of the only chunk."""
    indexed(root, dataset, **sections)
    receipt = root / "s/receipts/d/parcellate-00.json"
    manifest, config = str(root / "s/index/d/chunk-00.tsv"), str(root / "config.yaml")
    parcellate.run(config=config, dataset="d", manifest=manifest, output=str(receipt), derivatives=None, workers=1)
    return json.loads(receipt.read_text())


def sharded(root: Path, dataset: Mapping[str, Any], **sections: Any) -> Shards:
    """Go all the way: index, parcellate, shard, collect."""
    cleaned(root, dataset, **sections)
    receipts, folder = root / "s/receipts/d", root / "s/shards/d"
    shard.run(
        config=root / "config.yaml",
        dataset="d",
        receipt=receipts / "parcellate-00.json",
        output=receipts / "shard-00.json",
    )
    collect.run(dataset="d", receipts=[receipts / "shard-00.json"], output=folder / "manifest.parquet")
    return Shards(folder)


def recording(shards: Shards, run_id: str) -> np.ndarray:
    """Return a recording of the shards, NaN where a region is missing."""
    i = shards.manifest["run_id"].tolist().index(run_id)
    series = np.array(shards.series(i), dtype=float)
    series[:, ~shards.valid_regions(i)] = np.nan
    return series


def sidecar(root: Path, receipt: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Return what the sidecar of a product says."""
    path = next(product["path"] for product in receipt["products"] if product["run_id"] == run_id)
    return json.loads((root / "s" / path).with_suffix(".json").read_text())


# --- XCP-D --------------------------------------------------------------------------------------


def xcpd_run(
    root: Path,
    stem: str,
    series: np.ndarray,
    names: Sequence[str] = NAMES,
    *,
    atlas: str = "seg-Toy",
    censored: np.ndarray | None = None,
    interpolated: bool = False,
    fd_mm: float = 0.1,
    coverage: Sequence[float] | None = None,
    t_r: float | None = T_R,
) -> Path:
    """Write one run as XCP-D 0.10 to 26 do (``stat-mean``); return the folder."""
    subject, *rest = stem.split("_")
    folder = root / subject / (rest[0] if rest and rest[0].startswith("ses-") else "") / "func"
    grid = f"{stem}_space-MNI152NLin6Asym"
    flags = np.zeros(len(series), dtype=bool) if censored is None else censored
    table(folder / f"{grid}_{atlas}_stat-mean_timeseries.tsv", series if interpolated else series[~flags], names)
    (folder / f"{grid}_{atlas}_stat-mean_timeseries.json").write_text('{"SamplingFrequency": "TR"}')
    table(folder / f"{stem}_outliers.tsv", flags[:, None].astype(float), ["framewise_displacement"])
    motion = np.full((len(series), 7), fd_mm)
    motion[0, 6] = 0
    columns = [*(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"), "framewise_displacement"]
    table(folder / f"{stem}_motion.tsv", motion, columns)
    shares = coverage if coverage is not None else [1.0] * len(names)
    rows = ["Node\tcoverage", *(f"{name}\t{share}" for name, share in zip(names, shares, strict=True))]
    (folder / f"{grid}_{atlas}_stat-coverage_bold.tsv").write_text("\n".join(rows) + "\n")
    about: dict[str, Any] = {"SoftwareFilters": {"Bandpass filter": {"Low-pass cutoff (Hz)": 0.08}}}
    about |= {} if t_r is None else {"RepetitionTime": t_r}
    (folder / f"{grid}_res-2_desc-denoised_bold.json").write_text(json.dumps(about))
    return folder


def xcpd_atlas(root: Path, names: Sequence[str] = NAMES, where: str = "atlases/atlas-Toy", word: str = "label") -> None:
    """Write the table of the atlas ``Toy`` as XCP-D copies it."""
    rows = [
        f"index\t{word}\tnetwork_label",
        *(f"{i + 1}\t{name}\t{name.split('_')[1]}" for i, name in enumerate(names)),
    ]
    (root / where).mkdir(parents=True, exist_ok=True)
    (root / where / "atlas-Toy_dseg.tsv").write_text("\n".join(rows) + "\n")


# --- giga_connectome, tars, HDF5 ----------------------------------------------------------------


def giga_h5(path: Path, runs: Mapping[str, np.ndarray], t_r: float | None = T_R) -> None:
    """Write series by their names inside, with a connectome beside each, as versions up to 0.4 do."""
    with h5py.File(path, "w") as file:
        for name, series in runs.items():
            file[f"{name}_timeseries"] = series.astype(np.float32)
            file[f"{name}_connectome"] = np.corrcoef(series.T).astype(np.float32)
            if t_r is not None:
                file[f"{name}_timeseries"].attrs["RepetitionTime"] = t_r


def tar(path: Path, members: Mapping[str, Any]) -> None:
    """Write members: bytes as they are, everything else as a pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, value in members.items():
            content = value if isinstance(value, bytes) else pickle.dumps(value, 4)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
