"""Images hold the neural signal under artefacts that cleaning removes, in a file that any reader understands."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.signal import clean

from neuropipe.demo.atlas import SHAPE, affine, make_layout
from neuropipe.demo.confounds import confounds_table, draw_motion
from neuropipe.demo.coupling import network_ids, population
from neuropipe.demo.people import Site
from neuropipe.demo.scan import Voxels, simulate_scan, write_scan, write_volume
from neuropipe.demo.signals import regional_series

SITE = Site("here", t_r=2.0, n_volumes=200, n_pairs=1, gain=0.7, noise_percent=1.3, n_unsteady=0)


@pytest.fixture(scope="module")
def voxels():
    return Voxels.of(make_layout())


@pytest.fixture(scope="module")
def recording(voxels):
    """(planted series, motion, scan) of one run with a good deal of motion."""
    rng = np.random.default_rng(8)
    series = regional_series(population()[None], network_ids(), n_samples=SITE.n_volumes, t_r=SITE.t_r, rng=rng)[0]
    motion = draw_motion(SITE.n_volumes, 0.3, rng)
    return series, motion, simulate_scan(voxels, series, motion, SITE, rng)


def _region_means(scan, voxels):
    return np.stack([scan[:, voxels.region == region].mean(1) for region in range(457)], 1)


def _agreement(a, b):
    return np.median([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])


def test_cleaning_brings_the_planted_series_back(recording, voxels):
    series, motion, scan = recording
    raw = _region_means(scan, voxels)
    table, _ = confounds_table(scan, voxels.white_matter, voxels.csf, motion, SITE.t_r, SITE.n_unsteady)
    axes = [name for name in table if name.startswith(("trans", "rot"))]
    assert len(axes) == 24
    cleaned = clean(
        raw, confounds=table[axes].bfill().to_numpy(), t_r=SITE.t_r, low_pass=0.1, high_pass=0.01, standardize=None
    )
    assert _agreement(cleaned, series) > _agreement(raw, series) + 0.1
    planted, before, after = (np.corrcoef(values, rowvar=False).ravel() for values in (series, raw, cleaned))
    assert np.corrcoef(planted, after)[0, 1] > 0.85
    assert np.corrcoef(planted, before)[0, 1] < 0.5


def test_motion_leaks_into_voxels_and_drops_the_signal_when_the_head_moves(recording, voxels):
    _, motion, scan = recording
    position = np.c_[np.ones(SITE.n_volumes), motion]
    fitted = position @ np.linalg.lstsq(position, scan, rcond=None)[0]
    explained = fitted.var(0) / scan.var(0)
    assert np.median(explained) > 0.1  # 6 of 200 columns of noise would explain 0.03
    jerks = np.argsort(np.abs(np.diff(motion, axis=0)).sum(1))[-5:] + 1
    whole = scan.mean(1)
    assert whole[jerks].mean() < whole.mean() - whole.std()


def test_the_site_sets_gain_and_the_brightness_of_first_volumes(recording, voxels):
    series, motion, scan = recording
    brighter = Site("there", t_r=2.0, n_volumes=200, n_pairs=1, gain=1.4, noise_percent=1.3, n_unsteady=2)
    other = simulate_scan(voxels, series, motion, brighter, np.random.default_rng(1))
    assert other[2:].mean() / scan.mean() == pytest.approx(2, rel=0.15)  # the bias field is new in every run
    assert other[:2].mean() / other[2:].mean() == pytest.approx(1.06, abs=0.01)


def test_the_file_is_scaled_int16_with_zero_background(recording, voxels, tmp_path):
    scan = recording[2]
    path = tmp_path / "bold.nii.gz"
    write_scan(path, scan, voxels, SITE.t_r, np.random.default_rng(0))
    image = nib.load(path)
    assert image.get_data_dtype() == np.int16
    assert image.dataobj.slope != 1
    assert image.dataobj.inter != 0
    assert image.shape == (*SHAPE, SITE.n_volumes)
    assert image.header.get_zooms()[3] == SITE.t_r
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert np.array_equal(image.affine, affine())
    values = image.get_fdata().reshape(-1, SITE.n_volumes, order="F")
    assert np.abs(values[voxels.flat] - scan.T).max() <= 0.51 * image.dataobj.slope
    assert (np.delete(values, voxels.flat, axis=0) == 0).all()


def test_a_missing_region_has_no_voxels_and_the_others_keep_theirs():
    whole, holed = Voxels.of(make_layout()), Voxels.of(make_layout(), missing_region=120)
    counts = [np.bincount(v.region + 1, minlength=458) for v in (whole, holed)]
    assert counts[1][120] == 0
    assert np.flatnonzero(counts[0] != counts[1]).tolist() == [120]


def test_a_label_image_survives_the_file(tmp_path):
    layout = make_layout()
    write_volume(tmp_path / "labels.nii.gz", layout.labels)
    image = nib.load(tmp_path / "labels.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(image.dataobj), layout.labels)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
