"""Tars for the published code: read by webdataset's rules, by plain pickle, and by our own door."""

from __future__ import annotations

import pickle
import pickletools
import tarfile

import numpy as np
import pandas as pd
import pytest

from neuropipe.bids.tar_samples import samples
from neuropipe.errors import InputError
from neuropipe.provenance import read_json
from neuropipe.shards import exchange_tars, manifest
from neuropipe.shards.sample import CLIP_COLUMNS
from neuropipe.stages import tars

SERIES = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


def test_a_key_is_built_from_entities_in_their_order():
    assert exchange_tars.key("ds000009", "sub-16_task-stop_run-01") == "ds-ds000009_sub-16_task-stop_run-1"
    assert exchange_tars.key("A", "sub-1_run-x2_ses-b_dir-AP_task-rest") == "ds-A_sub-1_ses-b_task-rest_dir-AP_run-x2"
    with pytest.raises(InputError, match="dataset without underscores"):
        exchange_tars.key("my_data", "sub-1")


@pytest.mark.parametrize(
    "value", [SERIES, SERIES[:0], np.float32(0.72), 7, np.int32(3)], ids=lambda v: type(v).__name__
)
def test_pickles_name_what_numpy_1_knows(value):
    content = exchange_tars.pickled(value)
    named = {argument for kind, argument, _ in pickletools.genops(content) if kind.name == "GLOBAL"}
    assert not any("numpy._core" in name for name in named)
    back = pickle.loads(content)
    np.testing.assert_array_equal(back, value)
    assert np.asarray(back).dtype == np.asarray(value).dtype


def test_bytes_that_look_like_a_name_stay_as_they_are():
    value = np.frombuffer(b"cnumpy._core.multiarray\nscalar\n.", np.uint8)
    np.testing.assert_array_equal(pickle.loads(exchange_tars.pickled(value)), value)


@pytest.mark.parametrize("members", ["pyd", "npy"])
def test_written_is_read(tmp_path, members):
    fields = exchange_tars.fields(SERIES, 0.72, {"task_label": 3, "mental_state": "körper"})
    for name in ("a.tar", "b.tar"):
        exchange_tars.write(tmp_path / name, [("ds-A_sub-1_sample_001", fields)], members)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    (found,) = samples(tmp_path / "a.tar")
    np.testing.assert_array_equal(found.series(), SERIES)
    assert [found.value(f"{name}.{members}") for name in ("t_r", "task_label")] == [pytest.approx(0.72), 3]
    assert found.members["mental_state"].decode() == "körper"


def test_a_dataset_goes_out_recording_by_recording(tmp_path, make_shards):
    shards = make_shards({("sub-1", f"sub-1_task-rest_run-0{n}"): SERIES + n for n in (1, 2)}, dtype="float32")
    tars.run(shards=shards.folder, name=None, clips=False, members="pyd", output=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar")) == [
        f"ds-toy_sub-1_task-rest_run-{n}.tar" for n in (1, 2)
    ]
    with tarfile.open(tmp_path / "out" / "ds-toy_sub-1_task-rest_run-2.tar") as tar:
        content = pickle.loads(tar.extractfile("ds-toy_sub-1_task-rest_run-2.bold.pyd").read())
    np.testing.assert_array_equal(content, SERIES + 2)
    assert read_json(tmp_path / "out" / "dataset.json")["Recordings"] == 2


def test_clips_go_out_as_samples_with_labels(tmp_path, make_shards):
    shards = make_shards({("sub-1", "sub-1_task-wm"): SERIES}, dtype="float32")
    clip = {"sample": "toy_sub-1_task-wm", "dataset": "toy", "participant_id": "sub-1", "task": "wm", "label_id": 4}
    rows = [clip | {"label": "faces", "first_sample": n, "n_samples": 2} for n in (3, 1)]
    manifest.write_parquet(shards.folder / "clips.parquet", pd.DataFrame(rows).reindex(columns=list(CLIP_COLUMNS)))
    tars.run(shards=shards.folder, name="A", clips=True, members="pyd", output=tmp_path / "out")
    found = list(samples(tmp_path / "out" / "ds-A_sub-1_task-wm.tar"))
    assert [one.key for one in found] == [f"ds-A_sub-1_task-wm_sample_00{n}" for n in (1, 2)]
    np.testing.assert_array_equal(found[1].series(), SERIES[3:5])
    assert found[0].value("label_across_tasks.pyd") == 4 and found[0].members["mental_state"] == b"faces"
