"""The study on disk: BIDS names, readable by nibabel and nilearn, the same bytes for the same seed."""

import hashlib
import json
import shutil
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bids.layout import parse_file_entities
from nilearn.interfaces.fmriprep import load_confounds

from neuropipe.demo.cat12 import scan_files
from neuropipe.demo.people import Site
from neuropipe.demo.study import HEAVY_FD_MM, make_plan, run, write_study
from neuropipe.errors import InputError

SITES = (
    Site("one", t_r=2.0, n_volumes=80, n_pairs=1, gain=1.0, noise_percent=1.2),
    Site("two", t_r=1.5, n_volumes=90, n_pairs=1, gain=0.7, noise_percent=1.4),
    Site("three", t_r=2.5, n_volumes=70, n_pairs=1, gain=1.6, noise_percent=1.3, n_unsteady=1),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Six people at three sites, written by this process alone."""
    output = tmp_path_factory.mktemp("demo") / "study"
    write_study(output, make_plan(0, SITES), jobs=1)
    return output


def _contents(output):
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _images(output):
    return sorted(output.glob("derivatives/fmriprep/sub-*/func/*_task-rest_*_desc-preproc_bold.nii.gz"))


def _confounds(image):
    return image.with_name(image.name.split("_space-")[0] + "_desc-confounds_timeseries.tsv")


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(study, tmp_path):
    write_study(tmp_path / "again", make_plan(0, SITES), jobs=2)
    assert _contents(tmp_path / "again") == _contents(study)


def test_another_seed_gives_other_people_and_leaves_nothing_of_the_former(study, tmp_path):
    output = shutil.copytree(study, tmp_path / "study")
    (output / "derivatives/fmriprep/sub-001/func/.tmp-1-dead-sub-001_bold.nii.gz").write_bytes(b"half a file")
    (output / "derivatives/cat12/sub-007/anat/mri").mkdir(parents=True)
    (output / "derivatives/cat12/sub-007/anat/mri/mwp1sub-007_T1w.nii.gz").write_bytes(b"of a larger study")
    plan = make_plan(5, SITES)
    write_study(output, plan, jobs=1)
    runs = [*plan.runs, *plan.task_runs]
    assert {path.name for path in output.rglob("func/*")} == {name for r in runs for name in r.files().values()}
    maps = {str(path.relative_to(output / "derivatives/cat12")) for path in output.rglob("anat/*/*")}
    assert maps == {name for scan in plan.scans for name in scan_files(scan).values()}
    before, after = _contents(study), _contents(output)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name for name in after if name.endswith(("bold.nii.gz", "T1w.nii.gz", "participants.tsv"))} < changed


def test_a_complete_study_is_left_alone_and_an_incomplete_one_is_mended(study, tmp_path):
    output = shutil.copytree(study, tmp_path / "study")
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    write_study(output, make_plan(0, SITES), jobs=1)
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    _images(output)[0].unlink()
    next(output.glob("derivatives/cat12/sub-*/anat/mri/*.nii.gz")).unlink()
    write_study(output, make_plan(0, SITES), jobs=1)
    assert _contents(output) == _contents(study)


def test_a_folder_with_other_data_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="--output"):
        run(output=tmp_path, seed=0, jobs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_names_are_bids_and_images_fit_masks_tables_and_sidecars(study):
    derivatives = study / "derivatives/fmriprep"
    root = json.loads((derivatives / "task-rest_space-MNI152NLin6Asym_desc-preproc_bold.json").read_text())
    people = pd.read_csv(study / "participants.tsv", sep="\t", index_col="participant_id", dtype=str)
    t_r = {site.name: site.t_r for site in SITES}
    inheriting = 0
    for path in _images(study):
        entities = parse_file_entities(str(path))
        assert entities["subject"] in path.parts[-3]
        assert (entities["task"], entities["space"], entities["suffix"]) == ("rest", "MNI152NLin6Asym", "bold")
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        own = json.loads(sidecar.read_text()) if sidecar.is_file() else {}
        inheriting += not own
        image = nib.load(path)
        expected = t_r[people.loc[f"sub-{entities['subject']}", "site"]]
        assert {**root, **own}["RepetitionTime"] == image.header.get_zooms()[3] == expected
        mask = nib.load(str(path).replace("_desc-preproc_bold", "_desc-brain_mask"))
        assert np.array_equal(image.affine, mask.affine)
        moving = np.asarray(image.dataobj).std(-1) > 0
        assert np.array_equal(moving, np.asarray(mask.dataobj) > 0)
        assert len(pd.read_csv(_confounds(path), sep="\t")) == image.shape[3]
    assert 0 < inheriting < len(_images(study))


def test_slopes_vary_between_runs(study):
    scales = [nib.load(path).dataobj for path in _images(study)]
    assert len({scale.slope for scale in scales}) > len(scales) / 2


@pytest.mark.parametrize(
    ("strategy", "options", "n_columns"),
    [
        (("motion",), {"motion": "full"}, 24),
        (("motion", "wm_csf", "global_signal"), {"motion": "full", "wm_csf": "full", "global_signal": "full"}, 36),
        (("high_pass", "compcor"), {"compcor": "anat_combined", "n_compcor": 5}, None),
        (("high_pass", "compcor"), {"compcor": "anat_separated", "n_compcor": 3}, None),
        (("motion", "scrub"), {"motion": "basic", "fd_threshold": 0.5, "std_dvars_threshold": 1.5}, 6),
    ],
)
def test_nilearn_reads_the_confounds(study, strategy, options, n_columns):
    for path in _images(study):
        table = pd.read_csv(_confounds(path), sep="\t", na_values="n/a")
        if table["framewise_displacement"].mean() > 0.5:
            continue  # the run with too much motion: scrubbing leaves nothing
        columns, sample_mask = load_confounds(str(path), strategy=strategy, **options)
        assert len(columns) == len(table)
        assert np.isfinite(columns.to_numpy()).all()
        if n_columns:
            assert len(columns.columns) == n_columns
        else:
            assert any("comp_cor" in name for name in columns)
            assert any("cosine" in name for name in columns)
        if "scrub" in strategy:
            outlying = (table["framewise_displacement"] > 0.5) | (table["std_dvars"] > 1.5)
            kept = len(table) if sample_mask is None else len(sample_mask)
            assert kept <= len(table) - outlying.sum()


def test_nilearn_drops_the_unsteady_volume_where_there_is_one(study):
    people = pd.read_csv(study / "participants.tsv", sep="\t", index_col="participant_id")
    for path in _images(study):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, sample_mask = load_confounds(str(path), strategy=("motion", "non_steady_state"))
        unsteady = people.loc[path.name.split("_")[0], "site"] == "three"
        assert (sample_mask is not None and sample_mask[0] == 1) == unsteady


def test_the_truth_tells_of_the_mess_that_the_files_hold(study):
    truth = json.loads((study / "truth.json").read_text())
    runs = {entry["run"]: entry for entry in truth["runs"]}
    labels = np.asarray(nib.load(next(study.glob("atlas/*_dseg.nii.gz"))).dataobj)
    holes = {}
    for path in _images(study):
        name = path.name.split("_space-")[0]
        table = pd.read_csv(_confounds(path), sep="\t", na_values="n/a")
        assert table["framewise_displacement"].mean() == pytest.approx(runs[name]["mean_fd_mm"], rel=1e-6)
        assert sum(column.startswith("motion_outlier") for column in table) == runs[name]["n_motion_outliers"]
        assert (table["framewise_displacement"].mean() > 0.5) == runs[name]["too_much_motion"]
        mask = np.asarray(nib.load(str(path).replace("_desc-preproc_bold", "_desc-brain_mask")).dataobj) > 0
        holes[name] = sorted(set(np.unique(labels)) - set(np.unique(labels[mask])) - {0})
    told = {name: entry["missing_region"] for name, entry in runs.items()}
    assert holes == {name: [] if region is None else [region] for name, region in told.items()}
    assert sum(map(len, holes.values())) == 1
    assert [entry["mean_fd_mm"] for entry in runs.values() if entry["too_much_motion"]] == pytest.approx([HEAVY_FD_MM])
    usable = {entry["participant_id"] for entry in runs.values() if not entry["too_much_motion"]}
    assert usable == {person["participant_id"] for person in truth["people"]}
    assert len(runs) == len(usable) + 2
    scans = {entry["participant_id"]: entry for entry in truth["anatomy"]["scans"]}
    assert set(scans) == usable
    for person, told in scans.items():
        found = list(study.glob(f"derivatives/cat12/{person}/anat/mri/mwp1{person}_T1w.nii.gz"))
        assert bool(found) == told["has_map"]
        if found:
            image = nib.load(found[0])
            assert "".join(nib.aff2axcodes(image.affine)) == told["orientation"]
            assert image.get_fdata().sum() * 0.216 == pytest.approx(told["gm_ml"], rel=1e-5)


def test_the_whole_study_is_planned_with_48_usable_people_at_three_sites():
    plan = make_plan(0)
    good = [entry for entry in plan.runs if entry.mean_fd_mm < 0.5]
    assert len({entry.participant_id for entry in good}) == len(plan.people) == 48
    assert len({site.t_r for site in plan.sites}) == 3
    assert all(site.n_volumes * site.t_r / 2.0 >= 180 for site in plan.sites)
    patient = plan.people["diagnosis"] == "patient"
    assert np.corrcoef(np.log(plan.people["mean_fd_mm"]), patient)[0, 1] > 0.2
