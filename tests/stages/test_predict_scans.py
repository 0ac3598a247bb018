"""What networks read of new files is what they were trained on, bit by bit: beside the line from index to shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from asked_networks import VIT, write_map, write_network, write_picture
from PIL import Image
from test_predict import excluded, predict
from tiny_maps import TinyMaps

from neuropipe.config import Volumes
from neuropipe.data.image import read_published
from neuropipe.data.source import open_source
from neuropipe.hub.layouts import multiscale_vit as layout
from neuropipe.models.base import ImageSpec, VolumeSpec
from neuropipe.models.multiscale_vit import Classifier, Config
from neuropipe.shards.read import Shards
from neuropipe.stages import predict_scans
from neuropipe.stages.predict_files import Person

UP = {"axial": "z", "coronal": "y", "sagittal": "x"}
SETTINGS = {
    "tiv": {"scale": "tiv"},
    "resampled": {"voxel_mm": 2.0, "dtype": "float32"},
    "boxed": {"crop": [9, 8, 8], "size": [12, 12, 12], "scale": "zscore", "dtype": "uint8"},
}


def about(shards: Shards, content: str, **volumes) -> dict:
    """What the config.json of a network for these shards says of its input."""
    grid = shards.grid.as_json() if shards.content == "volume" else None
    facts = {"content": content, "slices": None, "volumes": Volumes(**volumes).model_dump(mode="json"), "grid": grid}
    return facts | {"map": "gm" if grid else None, "n_clips": 3, "model": VIT}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_new_map_is_read_as_the_training_data_were(tmp_path: Path, settings: dict) -> None:
    study = TinyMaps(tmp_path)
    paths = [study.add(name, tiv_ml=tiv) for name, tiv in (("01", 1300.0), ("02", 1600.0))]
    shards = Shards(study.line(atlases=False, volumes=settings))
    trained = open_source([shards])
    for i, path in enumerate(paths):
        scans, left_out = predict_scans.read(
            Person(f"sub-0{i + 1}", [path]), about(shards, "volume", **settings), "cpu"
        )
        assert left_out == []
        expected = trained.evaluation_batch(i, VolumeSpec(), None).volume
        assert torch.equal(scans[0].batch.volume, expected)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_of_a_new_map_are_cut_as_in_training(tmp_path: Path, plane: str) -> None:
    from neuropipe.data.slices import Slicing

    study = TinyMaps(tmp_path)
    path, slicing = study.add("01"), Slicing(plane=plane, range=(0.0, 1.0))
    study.add("02")
    shards = Shards(study.line(atlases=False))
    facts = about(shards, "image") | {"slices": slicing.model_dump(mode="json")}
    scans, _ = predict_scans.read(Person("sub-01", [path]), facts, "cpu")
    expected = open_source([shards], slices=slicing).evaluation_batch(0, ImageSpec(shape=(32, 32)), 3).image
    assert torch.equal(scans[0].batch.image, expected)
    assert scans[0].positions[0][0].startswith(f"{plane}, {UP[plane]} = ")


def test_pictures_of_a_person_are_read_as_in_training(tmp_path: Path) -> None:
    study, pictures = TinyMaps(tmp_path), tmp_path / "pictures"
    pictures.mkdir()
    paths = [write_picture(pictures / f"a_{n}.png", n, "I;16") for n in range(5)]
    rows = [{"path": path.name, "participant_id": "sub-a", "slice": n} for n, path in enumerate(paths)]
    pd.DataFrame(rows).to_csv(pictures / "slices.tsv", sep="\t", index=False)
    study.people.append("sub-a")
    settings = {"image_size": [24, 24], "scale": "zscore"}
    shards = Shards(study.line(dataset={"kind": "images", "path": str(pictures)}, volumes=settings))
    scans, _ = predict_scans.read(Person("sub-a", paths), about(shards, "image", **settings), "cpu")
    expected = open_source([shards]).evaluation_batch(0, ImageSpec(shape=(32, 32)), 3).image
    assert torch.equal(scans[0].batch.image, expected)
    assert scans[0].notes[0] == "3 of 5 slices, evenly spaced, were read, as in training."


def test_slices_of_a_map_get_a_page_with_the_rollout_of_every_slice(tmp_path: Path) -> None:
    network = write_network(tmp_path / "vit", "multiscale_vit")
    scan = write_map(tmp_path / "sub-01_gm.nii.gz")
    row = predict(tmp_path / "out", network, scan).loc["sub-01"]
    assert 0 < row["probability_calibrated"] < 1
    assert row["uncertainty"] > 0
    page = (tmp_path / "out" / "sub-01.html").read_text()
    assert "Attention rollout" in page
    assert '"shape":[4,4,4]' in page  # of 4 slices, 4 x 4 patches
    picture = write_picture(tmp_path / "a.png")
    predict(tmp_path / "other", network, picture, code=2)
    assert excluded(tmp_path / "other") == {"a.png": "not a map"}


# ------------------------------------------------------------------ pictures


@pytest.fixture
def of_pictures(tmp_path: Path) -> Path:
    settings = Volumes(image_size=(32, 32), dtype="float32").model_dump(mode="json")
    return write_network(tmp_path / "vit", "multiscale_vit", grid=None, map=None, slices=None, volumes=settings)


def test_colours_become_luma_and_deep_greys_keep_their_depth(tmp_path: Path, of_pictures: Path) -> None:
    colour = write_picture(tmp_path / "colour.png", 1, "RGB")
    Image.open(colour).convert("L").save(tmp_path / "grey.png")
    deep = write_picture(tmp_path / "deep.png", 1, "I;16")
    table = predict(tmp_path / "out", of_pictures, colour, tmp_path / "grey.png", deep)
    assert table.loc["colour", "probability_raw"] == table.loc["grey", "probability_raw"]
    assert "luma" in table.loc["colour", "notes"]
    assert "own depth" in table.loc["deep", "notes"]
    tenth = np.asarray(Image.open(deep), dtype=np.float32) / 10  # z-scored: a factor does not matter
    Image.fromarray(tenth).save(tmp_path / "tenth.tiff")
    found = predict(tmp_path / "tenth", of_pictures, tmp_path / "tenth.tiff").loc["tenth", "probability_raw"]
    assert found == pytest.approx(table.loc["deep", "probability_raw"], abs=1e-4)


def test_bad_pictures_are_named_and_the_rest_of_the_person_is_read(tmp_path: Path, of_pictures: Path) -> None:
    good = [write_picture(tmp_path / f"good{n}.png", n) for n in range(2)]
    flat, text = tmp_path / "flat.png", tmp_path / "text.png"
    Image.new("L", (30, 30), 7).save(flat)
    text.write_text("not an image")
    (tmp_path / "table.csv").write_text("a,b")
    scan = write_map(tmp_path / "sub-07.nii.gz")
    persons = tmp_path / "persons.tsv"
    persons.write_text("path\tparticipant_id\n" + "".join(f"{p.name}\tsub-05\n" for p in (*good, flat, text)))
    files = (*good, flat, text, scan, tmp_path / "table.csv")
    table = predict(tmp_path / "out", of_pictures, *files, code=2, options=("--persons", str(persons)))
    assert list(table.index) == ["sub-05"]
    assert table.loc["sub-05", "files"] == ";".join(map(str, good))
    reasons = {"flat.png": "constant", "text.png": "not a picture", "sub-07.nii.gz": "not a picture"}
    assert excluded(tmp_path / "out") == reasons | {"table.csv": "unknown format"}
    alone = predict(tmp_path / "alone", of_pictures, *good, options=("--persons", str(persons)))
    assert alone.loc["sub-05", "probability_raw"] == table.loc["sub-05", "probability_raw"]


# ------------------------------------------------------------------ a released checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> tuple[Path, Classifier]:
    """A classifier of small size, saved as the release is, and itself."""
    torch.manual_seed(0)
    sizes = {"img_size": (32, 32), "patch_size": (8, 8), "embed_dim": 64, "num_heads": 1}
    classifier = Classifier(Config.published().model_copy(update=sizes)).eval()
    torch.nn.init.normal_(classifier.head.fc.weight, std=0.5)
    own = classifier.state_dict()
    weights = {f"module.{e.key}": own[e.name] for e in layout.entries(classifier) if e.name not in layout.OUR_OWN}
    path = tmp_path_factory.mktemp("release") / "checkpoint_best.pt"
    torch.save({"model_state": weights, "epoch": 3}, path)
    return path, classifier


def test_a_released_checkpoint_says_what_its_own_prediction_says(tmp_path: Path, checkpoint) -> None:
    path, classifier = checkpoint
    picture = write_picture(tmp_path / "slice.png", shape=(60, 50))
    row = predict(tmp_path / "out", path, picture).loc["slice"]
    images = read_published(picture, (32, 32))[None, None].float() / 255
    said = classifier.predict(images, 10, torch.Generator().manual_seed(0))
    assert row["probability_raw"] == pytest.approx(said.raw[0, 1].item(), abs=1e-6)
    assert row["probability_calibrated"] == pytest.approx(said.calibrated[0, 1].item(), abs=1e-6)
    assert row["uncertainty"] == pytest.approx(said.std[0, 1].item(), rel=1e-4)
    page = (tmp_path / "out" / "sub-slice.html").read_text()
    assert "split by slice" in page
    assert "Nothing stored with the network tells" in page


def test_a_map_is_cut_for_a_released_checkpoint(tmp_path: Path, checkpoint) -> None:
    row = predict(tmp_path / "out", checkpoint[0], write_map(tmp_path / "sub-01_T1w.nii.gz")).loc["sub-01"]
    assert 0 < row["probability_calibrated"] < 1
    assert row["notes"].startswith("Cut into 5 axial slices")  # 4 to 8: 0.3 to 0.7 of 12


def test_a_released_checkpoint_is_found_in_the_cache_of_hugging_face(tmp_path: Path, checkpoint, monkeypatch) -> None:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    folder = tmp_path / "models--someone--model"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "checkpoint_best.pt").write_bytes(checkpoint[0].read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    picture = write_picture(tmp_path / "slice.png")
    assert len(predict(tmp_path / "out", Path("hf:someone/model"), picture)) == 1


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path, capsys) -> None:
    torch.save({"state_dict": {"features.weight": torch.zeros(2)}}, tmp_path / "other.pt")
    picture = write_picture(tmp_path / "slice.png")
    from neuropipe import cli

    arguments = ["--output", str(tmp_path / "out"), str(picture)]
    assert cli.main(["predict", "--model", str(tmp_path / "other.pt"), *arguments]) == 2
    assert "is no released classifier" in capsys.readouterr().err
    assert cli.main(["predict", "--model", str(tmp_path / "other.pt"), "--family", "yaware", *arguments]) == 2
    assert "No released classifier of the family 'yaware'" in capsys.readouterr().err
