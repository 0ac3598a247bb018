"""Training refuses what it cannot feed."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuropipe import recipes
from neuropipe.errors import ConfigError
from neuropipe.stages import pretrain


def test_a_family_that_reads_volumes_is_refused_where_shards_hold_series(tmp_path):
    recipe = Path(recipes.__file__).with_name("yaware-demo.yaml")
    with pytest.raises(ConfigError, match="the family yaware reads a volume, but the shards hold series"):
        pretrain._train(pretrain.Run("main/0", None, []), tmp_path, recipe, 0, [], {"sites": {}}, "cpu")
