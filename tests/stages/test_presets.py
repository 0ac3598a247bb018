"""Presets: each is loaded, gives way to the user's own keys, and makes of a small study what nilearn makes of it."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from nilearn.maskers import NiftiLabelsMasker, NiftiMapsMasker
from tiny_study import AFFINE, SHAPE, SPACE, TinyStudy, confounds_table, save

from neuropipe import config
from neuropipe.errors import ConfigError
from neuropipe.signals.atlases import common_space, entry
from neuropipe.stages import index, parcellate

SERIES = {"kind": "series", "path": "x.npz"}
NAMES = ["cc200", "learning-from-brains", "semantoks"]
N_MAPS = 4


def content_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((config.PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))


def run(folder: Path, path: Path) -> Path:
    """Index and parcellate the only dataset of a study; return the folder of its series."""
    study = config.load(path)
    (dataset,) = study.datasets
    index.run(config=str(path), dataset=dataset, output=str(folder / "s/index" / dataset))
    receipt = folder / "s/receipts" / dataset / "parcellate-00.json"
    manifest = str(folder / "s/index" / dataset / "chunk-00.tsv")
    parcellate.run(
        config=str(path), dataset=dataset, manifest=manifest, output=str(receipt), derivatives=None, workers=1
    )
    assert not json.loads(receipt.read_text())["excluded"]
    return folder / "s/derivatives" / dataset


def product(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    (path,) = folder.rglob("*_timeseries.npy")
    return np.load(path), json.loads(path.with_suffix(".json").read_text())


def in_double(path: Path) -> nib.Nifti1Image:
    """nilearn averages in the precision of the image; ours in double, whatever it is."""
    image = nib.load(path)
    return nib.Nifti1Image(image.get_fdata(), image.affine)


def test_presets_are_those_described() -> None:
    assert config.preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_fills_what_the_file_leaves_open(name: str) -> None:
    """Alone it is the study's preprocessing; what it does not say is the default."""
    given = content_of(name)
    assert given.keys() <= {"atlases", "clean", "exclude"}
    study = config.parse({"study": "s", "datasets": {"d": SERIES}, "preset": name})
    assert study.atlases == given["atlases"]
    for section, default in (("clean", config.Clean()), ("exclude", config.Exclude())):
        expected = default.model_dump() | given.get(section, {})
        assert getattr(study, section).model_dump() == expected


@pytest.mark.parametrize(
    ("name", "space", "n_regions"),
    [
        ("cc200", "MNI152NLin6Asym", 200),
        ("learning-from-brains", "MNI152NLin2009cAsym", 1024),
        ("semantoks", "MNI152NLin6Asym", 457),
    ],
)
def test_atlases_are_in_the_catalogue_and_of_the_published_size(name: str, space: str, n_regions: int) -> None:
    specs = content_of(name)["atlases"]
    assert common_space(specs) == space
    assert sum(entry(spec).n_regions for spec in specs) == n_regions


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_it_reproduces_and_where_that_is_described(name: str) -> None:
    lines = (config.PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = " ".join(line for line in lines[:12] if line.startswith("#"))
    assert f"preset: {name}" in header and ("arXiv" in header or "Preprocessed Connectomes Project" in header)


def test_own_keys_win_one_by_one() -> None:
    own = {"clean": {"low_pass": 0.08, "strategy": "36P"}, "exclude": {"min_volumes": 100}, "atlases": ["cc200"]}
    study = config.parse({"study": "s", "datasets": {"d": SERIES}, "preset": "semantoks", **own})
    assert (study.clean.low_pass, study.clean.strategy, study.clean.filter) == (0.08, "36P", "butterworth")
    assert study.exclude.min_volumes == 100 and study.atlases == ["cc200"]


@pytest.mark.parametrize("preset", ["semantok", 3, ["semantoks"]])
def test_an_unknown_preset_is_named_with_those_known(preset: Any) -> None:
    with pytest.raises(ConfigError, match=r"preset: .*"):
        config.parse({"study": "s", "datasets": {"d": SERIES}, "preset": preset})
    with pytest.raises(ConfigError, match="did you mean 'semantoks'"):
        config.parse({"study": "s", "datasets": {"d": SERIES}, "preset": "semantok"})


def test_a_mistake_beside_a_preset_is_still_one() -> None:
    with pytest.raises(ConfigError, match=r"clean: .*dictionary.*found 3"):
        config.parse({"study": "s", "datasets": {"d": SERIES}, "preset": "semantoks", "clean": 3})


def test_semantoks_is_nilearns_masker_with_its_settings(tmp_path: Path) -> None:
    study = TinyStudy(tmp_path)
    image = study.data / study.add("01", n_volumes=150)
    found, about = product(run(tmp_path, study.write(n_chunks=1, preset="semantoks")))
    masker = NiftiLabelsMasker(
        tmp_path / "atlas/toy.nii.gz",
        mask_img=image.with_name(image.name.replace("preproc_bold", "brain_mask")),
        **{"detrend": True, "low_pass": 0.1, "high_pass": 0.01, "t_r": 2.0, "standardize": "zscore_sample"},
        reports=False,
    )
    expected = masker.fit_transform(in_double(image)) * np.sqrt(150 / 149)  # to the population deviation
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-5)
    assert about["RepetitionTime"] == 2.0 and about["Regressors"] == []


def test_learning_from_brains_is_nilearns_masker_with_its_settings(tmp_path: Path) -> None:
    """Maps, smoothing, trend, high-pass and the nine confounds; 1.5 s stay 1.5 s and no volume is dropped."""
    rng = np.random.default_rng(0)
    study = TinyStudy(tmp_path)
    table = confounds_table(rng, 150).assign(non_steady_state_outlier00=np.eye(150)[0])
    image = study.data / study.add("01", n_volumes=150, t_r=1.5, confounds=table)
    maps = rng.random((*SHAPE, N_MAPS)) * (rng.random((*SHAPE, N_MAPS)) > 0.6)
    save(tmp_path / "maps.nii.gz", maps.astype(np.float32))
    names = pd.DataFrame({"index": range(1, N_MAPS + 1), "name": list("abcd")})
    names.to_csv(tmp_path / "maps.tsv", sep="\t", index=False)
    own = {"id": "toy", "kind": "maps", "image": str(tmp_path / "maps.nii.gz"), "table": str(tmp_path / "maps.tsv")}
    path = study.write(n_chunks=1, preset="learning-from-brains")
    content = yaml.safe_load(path.read_text()) | {"atlases": [own | {"space": SPACE}]}
    path.write_text(yaml.safe_dump(content))
    found, about = product(run(tmp_path, path))
    columns = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "white_matter", "csf", "global_signal"]
    masker = NiftiMapsMasker(
        nib.Nifti1Image(maps.astype(np.float32), AFFINE),
        mask_img=image.with_name(image.name.replace("preproc_bold", "brain_mask")),
        **{"smoothing_fwhm": 3, "detrend": True, "high_pass": 0.008, "t_r": 1.5, "standardize": "zscore_sample"},
        reports=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = masker.fit_transform(in_double(image), confounds=table[columns]) * np.sqrt(150 / 149)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert about["RepetitionTime"] == 1.5 and about["Regressors"] == columns
    assert about["CensoredVolumes"] == [] and about["NumberOfVolumes"] == 150


def tables_study(tmp_path: Path, series: np.ndarray, **sections: Any) -> Path:
    """A study of one table of series, 2 s apart."""
    data = tmp_path / "tables"
    data.mkdir(exist_ok=True)
    names = [f"r{n}" for n in range(series.shape[1])]
    pd.DataFrame(series, columns=names).to_csv(data / "1.tsv", sep="\t", index=False)
    (data / "participants.tsv").write_text("participant_id\n1\n")
    dataset = {"kind": "series", "path": str(data), "atlas": "m", "t_r": 2.0, "n_chunks": 1}
    regions = pd.DataFrame({"index": range(1, series.shape[1] + 1), "name": names})
    regions.to_csv(tmp_path / "regions.tsv", sep="\t", index=False)
    dataset["regions"] = str(tmp_path / "regions.tsv")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"study": "s", "datasets": {"d": dataset}, **sections}))
    return path


def test_cc200_is_one_least_squares_with_band_and_mean_signal(tmp_path: Path) -> None:
    """Stop-band and the mean over the regions that have a value, written out and solved by numpy."""
    rng = np.random.default_rng(0)
    series = 5 * rng.normal(size=(180, 1)) + rng.normal(size=(180, 6))
    series[:, 4] = 3.0  # a region without signal, as in these tables
    found, about = product(run(tmp_path, tables_study(tmp_path, series, preset="cc200")))
    time = np.arange(180)
    outside = [k for k in range(180) if not 0.01 <= k / (2 * 180 * 2.0) <= 0.1]
    design = [np.cos(np.pi * k * (time + 0.5) / 180) for k in outside] + [series.mean(axis=1)]
    design = np.stack(design, axis=1)
    left = series - design @ np.linalg.lstsq(design, series, rcond=None)[0]
    others = [0, 1, 2, 3, 5]
    expected = (left[:, others] - left[:, others].mean(axis=0)) / left[:, others].std(axis=0)
    np.testing.assert_allclose(found[:, others], expected, atol=1e-4)
    assert np.isnan(found[:, 4]).all() and about["Regressors"] == ["mean_signal"]


def test_first_volumes_of_tables_are_cut_on_request(tmp_path: Path) -> None:
    series = np.random.default_rng(0).normal(size=(180, 4))
    series[:5] += 100
    found, about = product(run(tmp_path, tables_study(tmp_path, series, clean={"strategy": "none", "n_dummy": 5})))
    assert len(found) == 175 and about["NonSteadyStateVolumesRemoved"] == 5 and np.abs(found).max() < 6


@pytest.mark.realdata
def test_abide_tables_band_passed_without_their_mean(published_data: Path, tmp_path: Path) -> None:
    """Raw C-PAC series: what lies outside 0.01-0.1 Hz is gone, and the positive mean connectivity with it."""
    mean_fc, outside = {}, {}
    for mean_signal in (False, True):
        folder = tmp_path / str(mean_signal)
        folder.mkdir()
        people = str(published_data / "abide_cc200/participants.tsv")
        dataset = {"kind": "series", "path": str(published_data / "abide_cc200/raw"), "participants": people}
        content = {"study": "s", "datasets": {"d": dataset | {"atlas": "cc200", "n_chunks": 1}}, "preset": "cc200"}
        content |= {"clean": {"mean_signal": mean_signal}, "exclude": {"max_mean_fd_mm": None}}
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        derivatives = run(folder, folder / "config.yaml")
        correlations = []
        for path in sorted(derivatives.rglob("*_timeseries.npy")):
            series = np.load(path)
            series = series[:, np.isfinite(series).all(axis=0)].astype(float)
            t_r = json.loads(path.with_suffix(".json").read_text())["RepetitionTime"]
            power = np.abs(np.fft.rfft(series, axis=0)) ** 2
            frequency = np.fft.rfftfreq(len(series), t_r)
            beyond = power[(frequency < 0.005) | (frequency > 0.12)].sum() / power.sum()
            outside[mean_signal] = max(outside.get(mean_signal, 0), beyond)
            fc = np.corrcoef(series.T)
            correlations.append(fc[np.triu_indices(len(fc), 1)].mean())
        assert len(correlations) == 20
        mean_fc[mean_signal] = np.mean(correlations)
    assert max(outside.values()) < 0.02
    assert mean_fc[False] > 0.1 > abs(mean_fc[True])


def test_the_examples_of_the_documentation_are_valid() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "cleaning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        config.parse({"study": "s", "datasets": {"d": SERIES}, **yaml.safe_load(block)})
    described = set(re.findall(r"`([^`\n]+)`", re.sub("```.*?```", "", text, flags=re.DOTALL)))
    assert set(get_args(config.Strategy)) <= described and set(NAMES) <= described
