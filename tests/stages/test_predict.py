"""neuropipe predict: the same numbers whoever is asked beside, and whatever is bad is named and left out."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from asked_networks import AFFINE, AGE, SHAPE, write_map, write_network
from scipy.special import expit

from neuropipe import cli
from neuropipe.data.batch import Batch
from neuropipe.evaluate import consensus
from neuropipe.hub import finetuned
from neuropipe.provenance import read_json, write_json
from neuropipe.stages.predict import page_name


def predict(output: Path, model: Path | list[Path], *files: Path, code: int = 0, options: tuple = ()) -> pd.DataFrame:
    """Run the command and return the table of predictions, by person."""
    named = [part for one in (model if isinstance(model, list) else [model]) for part in ("--model", str(one))]
    arguments = ["predict", *named, "--output", str(output), *options, *map(str, files)]
    assert cli.main(arguments) == code
    return pd.read_csv(output / "predictions.tsv", sep="\t", na_values="n/a").set_index("participant_id")


def excluded(output: Path) -> dict[str, str]:
    """Return the reason of each file that was left out, by its name."""
    table = pd.read_csv(output / "excluded.tsv", sep="\t", dtype=str)
    return {Path(path).name: reason for path, reason in zip(table["path"], table["reason"], strict=True)}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return write_network(tmp_path_factory.mktemp("finetuned") / "diagnosis" / "tiny" / "seed-0" / "main" / "0")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_map(tmp_path / "sub-01_ses-1_gm.nii.gz", 1)


# ------------------------------------------------------------------ numbers


def test_a_map_gets_what_the_network_says_of_its_voxels(tmp_path, network, scan):
    row = predict(tmp_path / "out", network, scan).loc["sub-01"]
    saved = finetuned.load(network)
    voxels = torch.from_numpy(nib.load(scan).get_fdata(dtype=np.float32))[None, None]
    with torch.no_grad():
        logit = saved.network(Batch.of_volumes(voxels)).item()
    assert row["probability_raw"] == pytest.approx(expit(logit), abs=1e-6)
    assert row["probability_calibrated"] == pytest.approx(expit(logit / 1.5 + 0.2), abs=1e-6)
    said = saved.predict([Batch.of_volumes(voxels)])
    assert row["uncertainty"] == pytest.approx(said.std, rel=1e-5)
    assert row["entropy"] == pytest.approx(said.entropy, rel=1e-6)
    assert row["mutual_information"] == pytest.approx(said.mutual_information, rel=1e-4)
    assert row["distance"] == pytest.approx(said.distance / float(saved.familiarity.threshold), rel=1e-6)
    assert row["out_of_distribution"] == said.is_far
    assert row["label"] == ("patient" if row["probability_calibrated"] >= 0.5 else "not patient")


def test_a_map_stored_from_right_to_left_gets_the_same(tmp_path, network, scan):
    array, flip = nib.load(scan).get_fdata(), AFFINE @ np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = AFFINE[0, 3] + 6 * (SHAPE[0] - 1)
    nib.save(nib.Nifti1Image(array[::-1].astype(np.float32), flip), tmp_path / "sub-02.nii")
    table = predict(tmp_path / "out", network, scan, tmp_path / "sub-02.nii")
    assert table.loc["sub-01", "probability_raw"] == table.loc["sub-02", "probability_raw"]


def test_a_number_has_its_unit_and_several_networks_are_averaged(tmp_path, scan):
    scaling = {"mean": 45.0, "sd": 12.0}
    folders = [
        write_network(tmp_path / "age" / str(k), seed=k, task=AGE, calibration=None, scaling=scaling) for k in range(3)
    ]
    alone = [
        predict(tmp_path / f"out-{k}", folder, scan).loc["sub-01", "predicted"] for k, folder in enumerate(folders)
    ]
    row = predict(tmp_path / "out", tmp_path / "age", scan).loc["sub-01"]
    assert len(set(alone)) == 3
    assert row["predicted"] == pytest.approx(np.mean(alone), rel=1e-12)
    assert row["unit"] == "years"
    assert np.isnan(row["probability_raw"])
    without = predict(tmp_path / "none", tmp_path / "age", scan, options=("--passes", "0")).loc["sub-01"]
    assert without["uncertainty"] == pytest.approx(np.std(alone), rel=1e-9)


def test_networks_from_random_weights_are_not_averaged_with_the_others(tmp_path, network, scan):
    below = network.parents[1]
    alone = predict(tmp_path / "alone", network, scan)
    write_network(below / "from-scratch" / "main" / "0", seed=5)
    pd.testing.assert_frame_equal(predict(tmp_path / "out", below, scan), alone)


def test_the_mean_of_probabilities_and_their_disagreement_are_those_of_closed_forms():
    about = {"calibration": {"temperature": 2.0, "bias": 0.5}, "scaling": None}
    says = SimpleNamespace(familiarity=None, about=about)
    readings = [consensus.Reading(2.0, np.array([0.0, 4.0]), None), consensus.Reading(-2.0, np.array([1.0, 1.0]), None)]
    found = consensus._probability([says, says], readings)
    passes = expit(np.array([0.0, 4.0, 1.0, 1.0]) / 2 + 0.5)
    assert found.raw == pytest.approx(0.5)
    assert found.calibrated == pytest.approx((expit(1.5) + expit(-0.5)) / 2)
    assert found.uncertainty == pytest.approx(passes.std())
    h = lambda p: -(p * np.log(p) + (1 - p) * np.log(1 - p))  # noqa: E731
    assert found.entropy == pytest.approx(h(passes.mean()))
    assert found.mutual_information == pytest.approx(h(passes.mean()) - h(passes).mean())


def test_the_gradient_map_of_a_linear_network_is_its_weights_times_the_input():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))

        def forward(self, batch):
            return (batch.volume * self.weight).sum((1, 2, 3, 4))[:, None]

    class One:
        network = Linear()

    x = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = consensus.input_gradient([One], Batch.of_volumes(x), 0.0)[0]
    expected = (x[0, 0] * One.network.weight).abs().numpy()
    np.testing.assert_allclose(found, np.clip(expected / np.percentile(expected, 99.5), 0, 1), rtol=1e-5)


# ------------------------------------------------------------------ the same again


def test_company_does_not_change_a_number(tmp_path, network, scan):
    others = [write_map(tmp_path / f"sub-1{k}.nii.gz", k) for k in range(3)]
    alone = predict(tmp_path / "alone", network, scan).loc["sub-01"]
    among = predict(tmp_path / "among", network, *others[:2], scan, others[2]).loc["sub-01"]
    pd.testing.assert_series_equal(alone, among)


def test_eight_threads_say_what_one_does(network, tmp_path):
    networks = [finetuned.load(network)]
    batches = [Batch.of_volumes(torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(k))) for k in range(8)]
    alone = [consensus.ask(networks, [batch]) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda batch: consensus.ask(networks, [batch]), batches)) == alone
    assert len({one.uncertainty for one in alone}) == 8


@pytest.mark.slow
def test_eight_processes_write_the_same_table(tmp_path, network, scan):
    command = [sys.executable, "-m", "neuropipe.cli", "predict", "--model", str(network), "--threads", "1", str(scan)]
    running = [subprocess.Popen([*command, "--output", str(tmp_path / f"out-{k}")]) for k in range(8)]
    assert [process.wait(timeout=300) for process in running] == [0] * 8
    tables = {(tmp_path / f"out-{k}" / "predictions.tsv").read_bytes() for k in range(8)}
    pages = {(tmp_path / f"out-{k}" / "sub-01.html").read_bytes() for k in range(8)}
    assert (len(tables), len(pages)) == (1, 1)


# ------------------------------------------------------------------ bad input


def bad_nan(array):
    array[5, 5, 5] = np.nan
    return array


BAD = {
    "wrong grid": lambda path: write_map(path, shape=(13, 16, 13)),
    "moved": lambda path: write_map(path, affine=AFFINE + np.array([[0, 0, 0, 6.0], *[[0] * 4] * 3])),
    "flipped affine": lambda path: write_map(path, affine=AFFINE @ np.diag([-1.0, 1, 1, 1])),  # its origin stayed
    "NaN": lambda path: write_map(path, change=bad_nan),
    "4-D": lambda path: write_map(path, shape=(*SHAPE, 3)),
    "constant": lambda path: write_map(path, change=np.ones_like),
    "text": lambda path: path.write_text("not an image"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: None,
}
REASONS = {
    "wrong grid": "wrong grid", "moved": "wrong grid", "flipped affine": "wrong grid", "NaN": "not finite",
    "4-D": "damaged image", "constant": "constant", "text": "truncated image", "empty": "truncated image",
    "missing": "missing file",
}  # fmt: skip


def test_bad_maps_are_named_and_the_others_predicted(tmp_path, network, scan, caplog):
    files = {name: tmp_path / f"sub-bad{n}.nii.gz" for n, name in enumerate(BAD)}
    for name, path in files.items():
        BAD[name](path)
    table = predict(tmp_path / "out", network, *files.values(), scan, scan, code=2)
    assert list(table.index) == ["sub-01"]
    expected = {files[name].name: reason for name, reason in REASONS.items()} | {scan.name: "duplicate person"}
    assert excluded(tmp_path / "out") == expected
    said = [record.message for record in caplog.records if record.message.startswith("left out")]
    assert len(said) == len(files) + 1
    assert all("\n" not in message for message in said)
    index = (tmp_path / "out" / "index.html").read_text()
    assert all(path.name in index for path in files.values())
    assert sorted(path.name for path in (tmp_path / "out").glob("sub-*")) == ["sub-01.html"]
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_a_second_map_of_a_person_is_left_out_unless_a_table_says_that_they_belong_together(tmp_path, network, scan):
    second = write_map(tmp_path / "sub-01_ses-2_gm.nii.gz", 2)
    predict(tmp_path / "out", network, scan, second, code=2)
    assert excluded(tmp_path / "out") == {second.name: "duplicate person"}
    persons = tmp_path / "persons.tsv"
    persons.write_text(f"path\tparticipant_id\n{scan.name}\tsub-01\n{second.name}\tsub-01\n")
    row = predict(tmp_path / "both", network, scan, second, options=("--persons", str(persons))).loc["sub-01"]
    assert row["files"] == f"{scan};{second}"


def test_a_map_that_says_another_space_is_refused(tmp_path, network):
    path = write_map(tmp_path / "sub-03_space-MNI152NLin6Asym_gm.nii.gz")
    predict(tmp_path / "out", network, path, code=2)
    assert excluded(tmp_path / "out") == {path.name: "wrong space"}


def one_line(capsys) -> str:
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_what_cannot_start_is_one_line_and_writes_nothing(tmp_path, network, scan, capsys):
    out = ["--output", str(tmp_path / "out")]
    assert cli.main(["predict", "--model", str(network), *out]) == 2
    assert "No file to predict" in one_line(capsys)
    assert cli.main(["predict", "--model", str(tmp_path / "nothing"), *out, str(scan)]) == 2
    assert "is not there" in one_line(capsys)
    series = tmp_path / "series"
    write_json(series / "config.json", {"content": "series"})
    assert cli.main(["predict", "--model", str(series), *out, str(scan)]) == 2
    assert "for maps of anatomy and slices" in one_line(capsys)
    other = write_network(tmp_path / "other", task=AGE, calibration=None, scaling={"mean": 0.0, "sd": 1.0})
    assert cli.main(["predict", "--model", str(network), "--model", str(other), *out, str(scan)]) == 2
    assert "cannot be averaged: task" in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("path\twho\na.png\tx\n", "lacks participant_id"),
        ("path\tparticipant_id\na.png\tx\na.png\ty\n", "is of y, and of x above"),
        ("path\tparticipant_id\na.png\t\n", "line 2"),
    ],
)
def test_a_table_of_persons_that_cannot_be_used_is_named(tmp_path, network, scan, capsys, rows, words):
    (tmp_path / "persons.tsv").write_text(rows)
    arguments = ["--output", str(tmp_path / "out"), "--persons", str(tmp_path / "persons.tsv"), str(scan)]
    assert cli.main(["predict", "--model", str(network), *arguments]) == 2
    assert words in one_line(capsys)


# ------------------------------------------------------------------ pages and facts


def test_pages_and_the_sidecar_say_what_was_asked(tmp_path, network, scan):
    predict(tmp_path / "out", network, scan)
    page = (tmp_path / "out" / "sub-01.html").read_text()
    assert "Input times gradient" in page
    assert "6 people of demo" in page
    assert "not found beside the network" in page
    sidecar = read_json(tmp_path / "out" / "predictions.json")
    assert sidecar["n_people"] == 1
    assert list(sidecar["Settings"]["networks"]) == [str(network)]
    assert str(scan) in sidecar["Inputs"]
    predict(tmp_path / "out", network, scan, options=("--no-overlay",))
    assert "Input times gradient" not in (tmp_path / "out" / "sub-01.html").read_text()


def test_the_accuracy_of_the_study_stands_on_the_page(tmp_path, scan):
    study = tmp_path / "study"
    folder = write_network(study / "finetuned" / "diagnosis" / "tiny" / "seed-0" / "main" / "0")
    facts = {"task": "diagnosis", "system": "tiny", "readout": "finetune", "metric": "auroc", "fold": "mean"}
    row = facts | {"value": 0.8123, "ci_low": 0.7, "ci_high": 0.9, "n_test": 40, "dataset": "demo"}
    pd.DataFrame([row | {"system": "other", "value": 0.1}, row]).to_parquet(study / "metrics.parquet")
    predict(tmp_path / "out", folder, scan)
    assert "0.81 (95 % interval 0.70 to 0.90), 40 people of demo" in (tmp_path / "out" / "sub-01.html").read_text()


def test_names_of_pages_are_safe_and_differ():
    assert page_name("sub-01", set()) == "sub-01.html"
    assert page_name("index", set()) == "sub-index.html"
    assert page_name("a/../b", {"sub-a-..-b.html"}) == "sub-a-..-b-2.html"
