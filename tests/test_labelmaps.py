"""The label maps that ship: the states and ids that their publications have, and what a study may change of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from neuropipe import config
from neuropipe.config import LABELMAPS, Events
from neuropipe.errors import ConfigError
from neuropipe.signals.windows import Clock, label_of, label_windows

ROOT = Path(__file__).resolve().parents[1]
HCP = {
    "EMOTION": {"fear": 0, "neut": 1},
    "GAMBLING": {"loss": 2, "win": 3},
    "LANGUAGE": {"math": 4, "story": 5},
    "MOTOR": {"lf": 6, "lh": 7, "rf": 8, "rh": 9, "t": 10},
    "RELATIONAL": {"match": 11, "relation": 12},
    "SOCIAL": {"mental": 13, "rnd": 14},
    "WM": {"body": 15, "faces": 16, "places": 17, "tools": 18},
    "REST1": {"rest": 19},
    "REST2": {"rest": 19},
}
MDTB = """
    CPRO GoNoGo ToM actionObservation affective arithmetic checkerBoard emotionProcess emotional intervalTiming
    landscapeMovie mentalRotation motorImagery motorSequence nBack nBackPic natureMovie prediction respAlt rest
    romanceMovie spatialMap spatialNavigation stroop verbGeneration visualSearch
""".split()  # noqa: SIM905


def ids(rules: Events) -> dict[str, int]:
    return {label: i for i, label in enumerate(rules.label_map())}


@pytest.mark.parametrize("path", sorted(LABELMAPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_valid_and_says_how_to_use_it(path: Path) -> None:
    assert Events(labels=path.stem).label_map()
    assert f"{{labels: {path.stem}}}" in path.read_text()


def test_hcp7_has_the_twenty_published_states() -> None:
    rules = Events(labels="hcp7")
    found = ids(rules)
    assert len(found) == 20
    for task, states in HCP.items():
        for state, expected in states.items():
            assert found[label_of(state, rules, task)] == expected
            assert label_of(state, rules, task.lower()) == state, "tasks are matched in capitals or not"
    assert [label_of("neut", rules, task) for task in ("EMOTION", "GAMBLING")] == ["neut", None]
    for load in ("0bk", "2bk"):
        assert label_of(f"{load}_faces", rules, "WM") == "faces"
    assert rules.delay_s == pytest.approx(4 * 0.72)


def test_mdtb_has_the_twentysix_published_tasks() -> None:
    rules = Events(labels="mdtb")
    assert ids(rules) == {name: i for i, name in enumerate(MDTB)}
    assert len(MDTB) == 26 and sorted(MDTB) == MDTB  # as Python sorts: capitals first
    for name in MDTB:
        assert label_of(name, rules) == label_of(f"{name}2", rules) == name
    assert (rules.column, rules.delay_s) == ("taskName", 3.0)


def test_mdtb_trials_become_the_blocks_of_the_specification() -> None:
    """Blocks span rows of one name, the last is kept, names in 2 are joined, instructions part blocks."""
    rows = [(0.0, 5.0, "instruct_stroop")]
    rows += [(5 + 3.0 * i, 2.0, "stroop") for i in range(10)]  # 5 to 34 s
    rows += [(35.0, 5.0, "instruct"), *((40 + 3.0 * i, 2.0, "nBack2") for i in range(10))]  # 40 to 69 s
    rows += [(70.0, 5.0, "instruct"), *((75 + 3.0 * i, 2.0, "nBack2") for i in range(10))]  # 75 to 104 s
    events = pd.DataFrame(rows, columns=["onset_s", "duration_s", "condition"])
    found = label_windows(events, Clock(0.0, 1.0, 120), np.array([], dtype=int), Events(labels="mdtb"))
    spans = [(w.label, w.condition, w.first_sample, w.n_samples) for w in found.kept]
    assert spans == [("stroop", "stroop", 8, 29), ("nBack", "nBack2", 43, 29), ("nBack", "nBack2", 78, 29)]


def test_what_a_study_says_replaces_what_a_preset_says() -> None:
    rules = Events(labels="mdtb", delay_s=5.0, min_duration_s=10)
    assert (rules.delay_s, rules.min_duration_s, rules.join_gap_s, len(ids(rules))) == (5.0, 10, 60, 26)


def parse(events: dict) -> config.StudyConfig:
    content = config.read_yaml(ROOT / "config.yaml")
    content["datasets"]["demo"]["events"] = events
    return config.parse(content, "my.yaml")


def test_a_map_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("delay_s: 6\nlabels: {move: [go*], hold: stop}\n")
    rules = parse({"labels": str(own), "min_duration_s": 4}).datasets["demo"].events
    assert ids(rules) == {"move": 0, "hold": 1} and rules.delay_s == 6
    assert ids(parse({"labels": ["b", "a"]}).datasets["demo"].events) == {"b": 0, "a": 1}
    assert parse({}).datasets["demo"].events.label_map() is None


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ({"labels": "hcp"}, r"datasets.demo.events: labels: no label map 'hcp'; expected a preset \(hcp7, mdtb\)"),
        ({"labels": {"a": ["x"]}, "min_rest_s": 10}, "no label has the condition 'rest'"),
        ({"labels": {"a": ["x"]}, "rest_tasks": ["rest"]}, "no label has the condition 'rest'"),
        ({"labels": []}, "expected at least one label, found none"),
        ({"rest_s": [30, 10]}, r"the shorter first, found \[30.0, 10.0\]"),
        ({"delay": 3}, "datasets.demo.events.delay: unknown key; found 'delay', did you mean 'delay_s'"),
        ({"delay_s": -1}, "datasets.demo.events.delay_s: input should be greater than or equal to 0, found -1"),
    ],
)
def test_mistakes_are_told_by_their_path(events: dict, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse(events)


def test_a_map_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("labels: [a\n")
    with pytest.raises(ConfigError, match=r"own\.yaml is not valid YAML"):
        parse({"labels": str(tmp_path / "own.yaml")})
    (tmp_path / "own.yaml").write_text("labels: hcp7\n")
    with pytest.raises(ConfigError, match=r"own\.yaml names another label map"):
        parse({"labels": str(tmp_path / "own.yaml")})


def test_the_example_of_the_docs_is_valid() -> None:
    text = (ROOT / "docs" / "events.md").read_text()
    example = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    dataset = config.Dataset.model_validate(example["datasets"]["motor"])
    assert ids(dataset.events) == {"hand": 0, "foot": 1, "rest": 2}
