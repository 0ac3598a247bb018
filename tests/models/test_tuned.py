"""Training for a task, for every family as every recipe that ships asks for it, on a few made-up people."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from test_contract import N_PEOPLE, configs, make
from test_probed import Made

from neuropipe import recipes
from neuropipe.models.network import on_top_of
from neuropipe.train import recipe
from neuropipe.train.finetune import Objective, train

RECIPES = sorted(Path(recipes.__file__).parent.glob("*.yaml"))
ASKED = {path.stem: asked for path in RECIPES if (asked := recipe.read(path)).finetune is not None}
SHORT = {"n_steps": 4, "batch_size": N_PEOPLE, "accumulate": 1, "evaluate_every": 2, "log_every": 1, "warmup": 0.0}
SHORT |= {"precision": "float32", "compile": False, "lr": 1e-3, "n_clips": 1}


class Known(Made):
    """The same with codes of people."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.table["person"] = np.arange(N_PEOPLE)


def small(family: str) -> str:
    """Return the small config of a family that stands for all its recipes."""
    return next(name for name, (own, _) in sorted(configs().items()) if own == family)


@pytest.mark.parametrize("kind", ["binary", "regression"])
@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_recipe_is_followed_and_the_best_step_is_kept(name, kind, tmp_path):
    asked = ASKED[name]
    settings = asked.finetune.model_copy(update=SHORT)
    model, config = make(small(asked.family))
    torch.manual_seed(0)
    network = on_top_of(model, 1, settings.drop_rate, settings.hidden_dim, settings.head_norm)
    network.freeze(settings.frozen, settings.unfreeze_at)
    start, part_of = copy.deepcopy(network.state_dict()), dict(network.part_of)
    source = Known(config)
    y = np.array([0.0, 1.0] * (N_PEOPLE // 2)) if kind == "binary" else np.linspace(20, 80, N_PEOPLE)
    targets = {("toy", f"sub-{i}"): float(value) for i, value in enumerate(y)}
    spec = config.reads()
    rows, watch = train(
        network, source, source, targets, Objective.of(kind, y), spec, settings, seed=1, folder=tmp_path, identity="x"
    )
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(np.isfinite(row["loss"]) for row in rows)
    assert [row["step"] for row in watch.losses] == [2, 4]
    for key, value in network.state_dict().items():
        assert torch.equal(value, watch.best[key])
    moved = {part_of[key] for key in part_of if not torch.equal(network.state_dict()[key], start[key])}
    thawed = settings.unfreeze_at is not None and watch.best_row["step"] > settings.unfreeze_at * settings.n_steps
    frozen = set(part_of.values()) - {"head"} if settings.freeze == "encoder" else set(settings.frozen)
    assert moved == set(part_of.values()) - (set() if thawed else frozen)


def test_every_family_has_a_recipe_that_says_how():
    assert {asked.family for asked in ASKED.values()} == {family for family, _ in configs().values()}
