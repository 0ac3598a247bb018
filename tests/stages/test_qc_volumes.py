"""The quality page of made-up maps and slices: everyone is on a sheet, and what was planted is found."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anatomy_quality_study import COPIED, COPY, LEFT_OUT, NOISY, SHIFTED, SITES, SMALL, make_page, name, write
from PIL import Image
from tiny_maps import AFFINE, TinyMaps, tissue

from neuropipe.paths import Study
from neuropipe.report import contact_sheet, excluded, quality
from neuropipe.shards.read import Shards
from neuropipe.stages import qc, qc_volumes

N_MAPS = 60  # more than one sheet


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(write(tmp_path_factory.mktemp("made"), N_MAPS, exclude={"max_iqr_grade": 4.5}))


def cells(page: Path) -> list[dict[str, str]]:
    """Return the cells of the contact sheet in their order."""
    found = []
    for classes, content in re.findall(r'<li class="([^"]*)" id="c\d+">(.*?)</li>', page.read_text(), re.DOTALL):
        image = re.search(r'<img(?: class="p(\d+)")? loading="lazy" decoding="async" src="([^"]+)"', content)
        text = [re.sub(r"<[^>]+>", "", part) for part in re.findall(r"<p[^>]*>(.*?)</p>", content, re.DOTALL)]
        place = {"sheet": image[2], "place": int(image[1] or 0)} if image else {"sheet": "", "place": 0}
        found.append({"id": text[0], "text": " | ".join(text[1:]), "marked": "marked" in classes, **place})
    return found


def table(page: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(page.with_name(f"{name}.tsv"), sep="\t")


def test_everyone_is_on_the_contact_sheet_with_the_worst_overlap_first(page: Path) -> None:
    found = cells(page)
    assert {cell["id"] for cell in found} == {name(n) for n in range(N_MAPS)} | {"sub-9999"}
    runs = pd.read_parquet(page.with_name("runs.parquet"))
    assert [cell["id"] for cell in found[: len(runs)]] == runs.sort_values("group_dice", kind="stable")[
        "run_id"
    ].to_list()
    assert {found[0]["id"], found[1]["id"]} == {name(SHIFTED), name(SMALL)}
    assert [cell["id"] for cell in found[len(runs) :]] == [name(LEFT_OUT), "sub-9999"]
    assert all(not cell["sheet"] and cell["marked"] for cell in found[len(runs) :])
    by_id = {cell["id"]: cell["text"] for cell in found}
    first = runs.set_index("run_id").loc[name(0)]
    assert f"IQR {first.iqr_grade:.2f}" in by_id[name(0)] and f"overlap {first.group_dice:.3f}" in by_id[name(0)]
    assert "IQR 5.20 critical" in by_id[name(NOISY)] and "outlier" in by_id[name(NOISY)]
    assert "poor image quality: grade 4.9" in by_id[name(LEFT_OUT)]


def test_the_sheets_show_the_slices_of_the_map_they_name(page: Path) -> None:
    shards, placed = Shards(page.parents[2] / "shards" / "made"), [cell for cell in cells(page) if cell["sheet"]]
    row_of = {run_id: i for i, run_id in enumerate(shards.manifest["run_id"])}
    sheets = {path.name: np.array(Image.open(path)) for path in (page.parent / "sheets").glob("0*.png")}
    assert [len(sheet) // 29 for _, sheet in sorted(sheets.items())] == [50, N_MAPS - 1 - 50]
    for cell in (placed[0], placed[-1]):
        volume, sheet = shards.values(row_of[cell["id"]]), sheets[Path(cell["sheet"]).name]
        strip = sheet[29 * cell["place"] : 29 * (cell["place"] + 1)].astype(float)
        axial = np.flipud(volume[:, :, 12].T)  # 29 rows of y, anterior up; 24 columns of x, left is left
        assert np.corrcoef(strip[:, :24].ravel(), axial.ravel())[0, 1] > 0.98
        sagittal = np.flipud(volume[12].T)  # 24 rows of z; 29 columns of y
        assert np.corrcoef(strip[2:26, 48:].ravel(), sagittal.ravel())[0, 1] > 0.98
    assert np.array(Image.open(page.parent / "sheets" / "mask.png")).max() == 255


def test_outliers_are_named_with_the_reason(page: Path) -> None:
    found = table(page, "outliers")
    planted = found.groupby("run_id")["measure"].agg(set)
    assert planted[name(NOISY)] == {"iqr_grade"}
    assert {"group_dice", "group_correlation"} <= planted[name(SHIFTED)]
    assert "total_ml" in planted[name(SMALL)]
    grades = pd.read_parquet(page.with_name("runs.parquet"))["iqr_grade"]
    mad = (grades - grades.median()).abs().median()
    row = found[found["run_id"] == name(NOISY)].iloc[0]
    assert row["n_mads"] == pytest.approx((5.2 - grades.median()) / mad, rel=1e-4)
    assert row["reason"] == f"iqr_grade 5.2, {row['n_mads']:.1f} MADs above the median {grades.median():.4g}"


def test_good_quality_makes_no_outlier() -> None:
    runs = pd.DataFrame({"run_id": [f"sub-{n:02d}" for n in range(30)], "site": ""})
    spread = np.tile([-0.1, 0.0, 0.1], 10)
    runs = runs.assign(participant_id=runs["run_id"], iqr_grade=2 + spread, group_dice=0.9 + spread / 10)
    runs.loc[3, ["iqr_grade", "group_dice"]] = [1.0, 0.99]
    assert qc_volumes.outliers(runs.assign(tiv_ml=1500 + 10 * spread)).empty
    runs.loc[3, ["iqr_grade", "group_dice"]] = [3.0, 0.81]
    assert set(qc_volumes.outliers(runs)["measure"]) == {"iqr_grade", "group_dice"}


def test_copies_are_flagged(page: Path) -> None:
    found = table(page, "duplicates")
    assert found["run_id"].to_list() == [name(COPIED), name(COPY)] and set(found["group"]) == {1}
    by_id = {cell["id"]: cell for cell in cells(page)}
    assert f"identical to {name(COPY)}" in by_id[name(COPIED)]["text"] and by_id[name(COPIED)]["marked"]
    assert "2 maps are copies of one another" in page.read_text()


def test_volumes_stand_against_age_and_by_site_and_sex(page: Path) -> None:
    content = page.read_text()
    for caption in ("Total grey matter against age", "Total intracranial volume by sex", "Total grey matter by site"):
        assert caption in content
    assert re.search(r"Total GM mL of 58 maps against age; the correlation is −?-?0\.\d\d", content)  # one has no age
    sites = table(page, "sites").set_index("site")
    assert set(sites.index) == set(SITES) and sites["n_runs"].sum() == N_MAPS - 1
    runs = pd.read_parquet(page.with_name("runs.parquet"))
    basel = runs[runs["run_id"].str[-4:].astype(int) % 4 == 0]
    assert sites.loc["Basel", "tiv_ml"] == pytest.approx(basel["tiv_ml"].mean(), rel=1e-4)


def test_nothing_comes_from_the_network_and_stale_sheets_go(page: Path) -> None:
    content = page.read_text()
    assert "default-src 'none'" in content
    links = set(re.findall(r'(?:src|href)="([^"#]*)"', content)) - {"data:,"}
    assert {link for link in links if link.startswith("sheets/")} >= {"sheets/000.png", "sheets/001.png"}
    assert all((page.parent / link).is_file() for link in links if link.startswith("sheets/"))
    assert not [link for link in links if "://" in link or link.startswith("//")]
    stale = page.parent / "sheets" / "007.png"
    stale.write_bytes(b"")
    make_page(page.parents[4] / "config.yaml")
    assert not stale.exists()


def test_slices(tmp_path: Path) -> None:
    page = make_page(write(tmp_path, 12, content="image"))
    found = {cell["id"]: cell for cell in cells(page)}
    assert "1 slice" in found[name(0)]["text"] and "4 slices" in found[name(3)]["text"]
    assert "IQR" not in found[name(0)]["text"] and "overlap" not in found[name(0)]["text"]
    sheet = np.array(Image.open(page.parent / found[name(3)]["sheet"]))
    height = len(sheet) // 12
    shards = Shards(page.parents[2] / "shards" / "made")
    middle = shards.values(3)[2]
    strip = sheet[height * found[name(3)]["place"] :][:height]
    assert np.corrcoef(strip.ravel().astype(float), middle.ravel())[0, 1] > 0.98


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyMaps:
    """From CAT12's folder to the page: one map is poor, with its left at the end of the array; two are copies."""
    study = TinyMaps(tmp_path_factory.mktemp("tiny"))
    for n in range(12):
        study.add(f"{n:02d}", iqr=2.0 + n / 100)
    study.add("03", poor()[::-1], affine=AFFINE @ flip(len(poor())), iqr=5.0)
    for twin in ("04", "05"):
        study.add(twin, tissue("04"))
    study.line(exclude={"max_iqr_grade": 4.0, "min_region_coverage": 0.0})
    qc.run(config=study.root / "config.yaml", dataset="tiny", output=study.results / "qc" / "tiny" / "index.html")
    return study


def poor() -> np.ndarray:
    """A map with a hole at the left, which says which way it lies."""
    array = tissue("poor")
    array[1:4, 5:9, 1:7] = 0
    return array


def test_after_the_real_stages_the_page_has_everyone(tiny: TinyMaps) -> None:
    page = tiny.results / "qc" / "tiny" / "index.html"
    found = {cell["id"]: cell["text"] for cell in cells(page)}
    assert len(found) == 12 and "IQR 5.00 critical" in found["sub-03"] and "left out" in found["sub-03"]
    assert "identical to sub-05" in found["sub-04"]
    assert "overlap 1.000" in found["sub-00"], "all people have tissue in the same block"
    assert "Total grey matter" in page.read_text() and (page.parent / "sheets" / "mean.png").is_file()


def test_who_was_left_out_is_shown_from_the_file_with_left_at_the_left(tiny: TinyMaps) -> None:
    page = tiny.results / "qc" / "tiny" / "index.html"
    cell = next(cell for cell in cells(page) if cell["id"] == "sub-03")
    strip = np.array(Image.open(page.parent / cell["sheet"]))[11 * cell["place"] :][:11]
    expected = np.flipud(poor()[:, :, 4].T)
    assert np.corrcoef(strip[:, :9].ravel().astype(float), expected.ravel())[0, 1] > 0.95


def test_the_flow_of_the_report_knows_the_stage(tiny: TinyMaps) -> None:
    study = Study(tiny.results)
    steps = {step.stage: step for step in excluded.flow(study, "tiny", excluded.merge(study))}
    assert list(steps) == ["found", "index", "volumes", "shard"]
    assert (steps["index"].n_people, steps["volumes"].n_people) == (12, 11)
    assert [count for _, count in steps["volumes"].left_out] == [1]


def flip(n: int) -> np.ndarray:
    """Return the change of indices that counts the first axis from its end."""
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = n - 1
    return matrix


def test_resizing_is_the_mean_of_what_falls_together() -> None:
    plane = np.random.default_rng(0).random((6, 8))
    expected = plane.reshape(3, 2, 4, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(contact_sheet.resized(plane, (3, 4)), expected)
    np.testing.assert_allclose(contact_sheet.resized(plane, (12, 16)), np.kron(plane, np.ones((2, 2))))
    uneven = contact_sheet.resized(np.arange(5.0)[:, None], (2, 1))
    np.testing.assert_allclose(uneven[:, 0], [0.5, 3.0])


def test_thick_slices_keep_their_aspect() -> None:
    strip = contact_sheet.of_volume(np.ones((40, 50, 10)), (1.0, 1.0, 4.0))
    assert strip.shape == (50, 40 + 40 + 50)


def test_a_constant_map_is_black_and_a_single_voxel_is_seen() -> None:
    assert contact_sheet.greys(np.full((4, 4), 3.0)).max() == 0
    lone = np.zeros((40, 40))
    lone[3, 3] = 1
    assert contact_sheet.greys(lone)[3, 3] == 255


def test_a_page_of_500_people_stays_below_5_mb(tmp_path: Path, page: Path) -> None:
    """Sheets and cells grow with people: those of a few textured maps on CAT12's grid are scaled up."""
    sheets = make_page(write(tmp_path, 2, (121, 145, 121))).parent / "sheets"
    assert 500 / 2 * (sheets / "000.png").stat().st_size + 500 / N_MAPS * page.stat().st_size < 5e6


def test_grades_have_the_words_of_cat12() -> None:
    """Points of a hundred are 105 - 10 IQR; from 90 excellent, and ten points for each further word."""
    words = ["excellent", "good", "satisfactory", "sufficient", "critical", "unacceptable"]
    for points in range(0, 101):
        expected = words[min(max(math.ceil((100 - points) / 10) - 1, 0), 5)]
        assert quality.grade_word((105 - points) / 10 - 1e-6) == expected, points


def test_the_report_says_how_many_of_which_quality_and_how_many_stand_out() -> None:
    runs = pd.DataFrame({"run_id": ["a", "b", "c"], "iqr_grade": [1.9, 2.7, np.nan]})
    outliers = pd.DataFrame({"run_id": ["b", "b"]})
    said = quality.anatomy("vbm", runs, outliers)
    assert said == "vbm: 3 maps or scans, median image quality 2.30 (good), 1 unlike the others."
    assert quality.anatomy("slices", runs[["run_id"]], None) == "slices: 3 maps or scans."
