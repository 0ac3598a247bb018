"""Harmonising asks for sites, and what it keeps must make sense."""

from __future__ import annotations

import pytest

from neuropipe.config import parse
from neuropipe.errors import ConfigError


def study(roles: dict | None = None, **evaluate: object) -> dict:
    dataset = {"kind": "series", "path": "nowhere", "atlas": "toy"} | ({"roles": roles} if roles else {})
    task = {"target": "age", "kind": "regression", "datasets": ["toy"], "split": "main"}
    return {
        "study": "s",
        "datasets": {"toy": dataset},
        "splits": {"main": {"scheme": "holdout", "test": 0.3}},
        "tasks": {"age": task},
        "evaluate": evaluate,
    }


def test_a_study_with_sites_may_be_harmonised():
    asked = parse(study(harmonise="combat", harmonise_keep=["sex"])).evaluate
    assert (asked.harmonise, asked.harmonise_keep) == ("combat", ["sex"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (study({"site": None}, harmonise="combat"), "harmonise: needs sites, but datasets.toy.roles.site is null"),
        (study(harmonise="combat", harmonise_keep=["site"]), "site is what harmonise takes away"),
        (study(harmonise_keep=["age"]), "harmonise_keep: says what harmonise keeps"),
        (study(harmonise="longcombat"), "evaluate.harmonise"),
    ],
)
def test_what_cannot_be_is_said(content, said):
    with pytest.raises(ConfigError, match=said):
        parse(content)
