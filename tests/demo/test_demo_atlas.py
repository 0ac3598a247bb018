"""The simulated brain: a grid of MNI152NLin6Asym, and regions in the order of the published atlas."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuropipe.demo.atlas import SHAPE, VOXEL_MM, affine, make_layout
from neuropipe.demo.coupling import NETWORKS, network_ids

DATA = Path(os.environ.get("NEUROPIPE_DATA", "../shared/data"))
PUBLISHED = DATA / "atlases" / "tpl-MNI152NLin6Asym_res-02_atlas-Schaefer400Tian3Buckner7_dseg.nii.gz"


@pytest.fixture(scope="module")
def layout():
    return make_layout()


def test_every_region_has_a_few_voxels_on_its_own_side(layout):
    table = layout.table
    assert (np.bincount(layout.labels.ravel(), minlength=458)[1:] == table["n_voxels"]).all()
    assert table["n_voxels"].min() >= 4
    assert (table.loc[table["hemisphere"] == "L", "x"] < 0).all()
    assert (table.loc[table["hemisphere"] == "R", "x"] >= 0).all()  # the midline counts as right


def test_regions_lie_where_their_networks_lie(layout):
    centre = layout.table.groupby("network")[["x", "y", "z"]].mean()
    assert centre["y"].idxmin() in ("Vis", "Cerebellum")
    assert centre["z"].idxmin() == "Cerebellum"
    assert centre["z"].idxmax() in ("SomMot", "DorsAttn")
    assert (centre.loc["Limbic"] < centre.loc["Cont"])["z"]
    assert np.abs(centre.loc["Subcortex"]).max() < 20


def test_the_table_names_networks_in_the_order_of_the_signals(layout):
    assert [NETWORKS[i] for i in network_ids()] == layout.table["network"].tolist()
    assert layout.table["index"].tolist() == list(range(1, 458))
    assert layout.table["atlas"].value_counts(sort=False).to_dict() == {
        "schaefer400-7n": 400,
        "tian-s3": 50,
        "buckner7": 7,
    }


def test_tissues_do_not_overlap(layout):
    assert not (layout.white_matter & layout.csf).any()
    assert not ((layout.labels > 0) & (layout.white_matter | layout.csf)).any()
    assert layout.white_matter.sum() > 1000
    assert layout.csf.sum() > 30


def test_the_layout_is_the_same_every_time(layout):
    assert (make_layout().labels == layout.labels).all()


@pytest.mark.realdata
@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"no published atlas at {PUBLISHED} (set NEUROPIPE_DATA)")
def test_grid_and_order_are_those_of_the_published_atlas(layout):
    published = nib.load(PUBLISHED)
    step = VOXEL_MM / published.header.get_zooms()[0]
    first, last = (np.array(corner) for corner in ((0, 0, 0), np.array(SHAPE) - 1))
    into_published = np.linalg.inv(published.affine) @ affine()
    assert np.allclose(nib.affines.apply_affine(into_published, first), first * step)
    assert np.allclose(nib.affines.apply_affine(into_published, last), np.array(published.shape) - 1)
    names = str(PUBLISHED).replace("_res-02", "").replace(".nii.gz", ".tsv")
    table = pd.read_csv(names, sep="\t", keep_default_na=False)
    assert table["network"].tolist() == layout.table["network"].tolist()
    assert table["hemisphere"].tolist() == layout.table["hemisphere"].tolist()
    assert set(table.columns) == set(layout.table.columns)
