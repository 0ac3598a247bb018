"""Tables keep their columns, types and notes through a file, and damaged ones are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from neuropipe.errors import InputError
from neuropipe.evaluate import tables


def test_lists_missing_values_and_notes_survive_a_file(tmp_path):
    row = {"run_id": "r", "repeat": 0, "fold": "0001", "participant_id": "sub-0001"}
    lists = {"y": np.array([0, 1], np.float32), "prediction": np.array([0.25, -1], np.float32)}
    table = tables.frame([row | lists], tables.NULLS)
    table.attrs = {"bootstrap": 100, "seed": 3}
    tables.write(tmp_path / "nulls.parquet", table, tables.NULLS)
    found = tables.read([tmp_path / "nulls.parquet"], tables.NULLS, "nulls")
    assert list(found) == list(tables.NULLS)
    assert found.loc[0, "fold"] == "0001"
    assert pd.isna(found.loc[0, "dataset"])
    np.testing.assert_array_equal(found.loc[0, "prediction"], lists["prediction"])
    assert found.attrs == {"bootstrap": "100", "seed": "3"}
    assert pd.read_parquet(tmp_path / "nulls.parquet").shape == (1, len(tables.NULLS))


def test_equal_tables_have_equal_bytes(tmp_path):
    table = tables.frame([{"run_id": "r", "measure": "time", "value": 1.5}], tables.COSTS)
    for name in ("a", "b"):
        tables.write(tmp_path / name, table, tables.COSTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_are_joined_in_order_and_empty_ones_are_fine(tmp_path):
    for name, rows in (("a", [{"run_id": "1"}]), ("b", []), ("c", [{"run_id": "2"}])):
        tables.write(tmp_path / name, tables.frame(rows, tables.COSTS), tables.COSTS)
    found = tables.read([tmp_path / name for name in "abc"], tables.COSTS, "costs")
    assert found["run_id"].tolist() == ["1", "2"]
    assert {name: str(kind) for name, kind in found.dtypes.items()}["value"] == "float64"


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"No costs at .*nowhere.parquet"):
        tables.read([tmp_path / "nowhere.parquet"], tables.COSTS, "costs")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other.parquet lacks the columns \['run_id'"):
        tables.read([tmp_path / "other.parquet"], tables.COSTS, "costs")


def test_the_columns_are_those_of_the_specification():
    assert ", ".join(tables.METRICS) == (
        "run_id, config_hash, data_hash, atlas_id, roi_order_hash, system, checkpoint_sha256, pretrain_datasets, "
        "pretrain_overlap_n, dataset, task, target, target_type, readout, confound_set, harmonisation, split_scheme, "
        "repeat, fold, seed, n_train, n_val, n_test, prevalence, metric, value, ci_low, ci_high, ci_method, null_mean, "
        "p_perm, reference, delta, delta_ci_low, delta_ci_high, t_nb, p_nb, p_holm, threshold, threshold_source, "
        "temperature, bias"
    )
    asked = {"run_id", "system", "task", "readout", "split", "repeat", "fold", "role", "participant_id", "site", "sex"}
    assert asked | {"y", "score", "yhat", "logit", "uncertainty"} <= set(tables.PREDICTIONS)


@pytest.mark.parametrize("n_kept", [0, 5, -1], ids=["empty", "no table", "cut off"])
def test_a_damaged_file_is_named(tmp_path, n_kept):
    path = tmp_path / "nulls.parquet"
    tables.write(path, tables.frame([{"run_id": "r"}], tables.NULLS), tables.NULLS)
    path.write_bytes(path.read_bytes()[:n_kept])
    with pytest.raises(InputError, match=r"nulls.parquet is no readable parquet table of nulls.*Run the stage"):
        tables.read([path], tables.NULLS, "nulls")


def test_predictions_of_classes_stand_beside_others_and_older_files_lack_their_columns(tmp_path):
    shares = np.array([0.25, 0.5, 0.25], np.float32)
    rows = [{"run_id": "a", "y": 1.0, "label": "mild", "probability": shares}, {"run_id": "b", "score": 0.5}]
    path = tmp_path / "predictions.parquet"
    for table in (rows, rows[1:]):
        tables.write(path, tables.frame(table, tables.PREDICTIONS), tables.PREDICTIONS)
        found = tables.read([path], tables.PREDICTIONS, "predictions").set_index("run_id")
        assert found.loc["b", "probability"] is None
        assert pd.isna(found.loc["b", "label"])
        if len(table) == 2:
            np.testing.assert_array_equal(found.loc["a", "probability"], shares)
    pd.read_parquet(path).drop(columns=list(tables.LATER)).to_parquet(path)
    assert tables.read([path], tables.PREDICTIONS, "predictions", tables.LATER)["probability"].tolist() == [None]
    with pytest.raises(InputError, match="lacks the columns"):
        tables.read([path], tables.PREDICTIONS, "predictions")
