"""A person's map as a new file gets what fine-tuning decided on the same map from the shards."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_finetune_anatomy import cohort, prepared, run
from test_predict import predict
from volume_shards import AFFINE


@pytest.mark.parametrize("name", ["whole", "slices"])
def test_a_file_gets_what_was_decided_in_the_study(tmp_path, name) -> None:
    config, study = prepared(tmp_path / "tiny", name)
    decisions = pd.read_parquet(run(config, study) / "decisions.parquet").query("system == 'tiny'")
    (_, maps), files = cohort(), []
    for person in decisions["participant_id"][decisions["participant_id"] != "sub-00"][:4]:  # sub-00 has two scans
        files.append(tmp_path / f"{person}_gm.nii")
        stored = maps[person, f"{person}_ses-1"].astype(np.float16)
        nib.save(nib.Nifti1Image(stored.astype(np.float32), AFFINE), files[-1])
    table = predict(tmp_path / "out", study.finetuned("diagnosis", "tiny", 0), *files)
    said = decisions.set_index("participant_id").loc[table.index]
    np.testing.assert_allclose(table["probability_calibrated"], said["value"], rtol=1e-5)
    np.testing.assert_allclose(table["probability_raw"], said["raw"], rtol=1e-5)
    np.testing.assert_allclose(table["uncertainty"], said["std"], rtol=1e-3, atol=1e-7)
    assert table["out_of_distribution"].tolist() == said["is_far"].tolist()
    assert len(table) == 4
