"""The configuration: every mistake at once, by its dotted path, with the nearest known key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from neuropipe import config
from neuropipe.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "workflow" / "studies").glob("*.yaml"))]


@pytest.fixture
def content() -> dict:
    return config.read_yaml(ROOT / "config.yaml")


def link(content: dict, **links: str) -> None:
    """Add datasets whose people are those of others."""
    for name, other in links.items():
        content["datasets"][name] = {"kind": "cat12", "path": "nowhere", "people_of": other}


def external_through_a_chain(content: dict) -> None:
    link(content, a="demo", b="a")
    content["pretrain"]["far"] = {"datasets": ["b"], "people": "external"}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_that_ships_is_valid(path):
    study = config.load(path)
    assert study.tasks and study.splits
    for recipe in study.pretrain:
        assert study.recipe_path(recipe).is_file()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_matches_the_committed_schema(path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_all_mistakes_come_in_one_message(content):
    content["datset"] = {}
    content["clean"]["hi_pass"] = 0.01
    content["datasets"]["demo"]["n_chunk"] = 2
    content["tasks"]["age"]["split"] = "man"
    content["splits"]["main"]["test"] = 3.4
    content["clean"]["strategy"] = "25P"
    with pytest.raises(ConfigError) as caught:
        config.parse(content, "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml has 6 mistakes:")
    for part in (
        "datset: unknown key; found 'datset', did you mean 'datasets'?",
        "clean.hi_pass: unknown key; found 'hi_pass', did you mean 'high_pass'?",
        "datasets.demo.n_chunk: unknown key; found 'n_chunk', did you mean 'n_chunks'?",
        "tasks.age.split: found 'man', did you mean 'main'?",
        "splits.main.test: a share lies between 0 and 1",
        "clean.strategy: input should be 'none', 'cosine'",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["tasks"]["diagnosis"].pop("positive"), "tasks.diagnosis: a binary task needs positive"),
        (lambda c: c["splits"]["main"].pop("test"), "splits.main: scheme holdout needs test"),
        (lambda c: c["clean"].update(high_pass=0.2), r"high_pass \(0.2 Hz\) must lie below low_pass"),
        (lambda c: c["clean"].update(strategy="acompcor", n_compcor=0), r"clean.n_compcor: expected a count \(5\), a"),
        (lambda c: c["clean"].update(strategy="acompcor", n_compcor=1.5), "clean.n_compcor: expected .* found 1.5"),
        (lambda c: c["clean"].update(n_compcor=5), "clean: compcor and n_compcor go with strategy acompcor"),
        (lambda c: c["clean"].update(n_dummy=-1), "clean.n_dummy: expected a count of volumes"),
        (lambda c: c["clean"].update(global_signal=True, mean_signal=True), "two estimates of one thing"),
        (lambda c: c["pretrain"]["semantoks-demo"].update(people="external"), "external means datasets that no task"),
        (lambda c: link(c, a="b", b="c", c="a"), "datasets.a.people_of: a, b, c lead to each other in a circle"),
        (lambda c: link(c, a="dmo"), "datasets.a.people_of: found 'dmo', did you mean 'demo'"),
        (lambda c: external_through_a_chain(c), "pretrain.far.people: external .* the people of b are judged"),
        (lambda c: c["pretrain"]["semantoks-demo"].update(splits=["other"]), "semantoks-demo.splits: found 'other'"),
        (lambda c: c["evaluate"].update(combine=["fc_tangent"]), "combine joins embeddings with fc_tangent, which"),
        (lambda c: c.pop("atlases"), "needs at least one atlas"),
        (lambda c: c.pop("study"), "study: required"),
        (lambda c: c.update(study="../up"), "study: string should match"),
        (lambda c: c["datasets"]["demo"].update(kind="nifti"), "datasets.demo.kind: input should be"),
    ],
)
def test_each_mistake_is_named(content, change, expected):
    change(content)
    with pytest.raises(ConfigError, match=expected):
        config.parse(content)


def test_embeddings_are_joined_with_what_fits_the_task(content):
    content["evaluate"].update(combine=["voxels", "fc"])
    study = config.parse(content)
    assert (study.combined("age"), study.combined("age-vbm")) == (["fc"], ["voxels"])
    del content["datasets"]["demo-vbm"], content["pretrain"]["yaware-demo"], content["pretrain"]["multiscale-vit-demo"]
    del content["tasks"]["age-vbm"], content["tasks"]["diagnosis-vbm"]
    with pytest.raises(ConfigError, match=r"evaluate\.combine: voxels fits no task"):
        config.parse(content)


def test_the_end_of_a_chain_names_the_people(content):
    link(content, a="demo", b="a")
    assert config.parse(content).same_people().items() >= {"demo-vbm": "demo", "a": "demo", "b": "demo"}.items()


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="No file"):
        config.load(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        config.load(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(tmp_path / "broken.yaml")


def test_environment_variables_in_paths(monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert config.expand("${SOMEWHERE}/x") == "/data/x"
    assert config.expand("${NOWHERE:-../here}/x") == "../here/x"
    with pytest.raises(ConfigError, match="NOWHERE"):
        config.expand("${NOWHERE}/x")


@pytest.mark.parametrize("part", ["tasks", "pretrain"])
def test_maps_of_two_tissues_do_not_mix(content, part):
    for name, which in (("one", None), ("two", "wm")):
        content["datasets"][name] = {"kind": "cat12", "path": "x", "map": which}
    item = {"tasks": {"target": "age", "kind": "regression", "split": "main"}, "pretrain": {"people": "everyone"}}[part]
    content[part]["maps"] = item | {"datasets": ["one", "two"]}
    with pytest.raises(ConfigError, match=rf"{part}.maps.datasets: .*one: volume \(gm\), two: volume \(wm\)"):
        config.parse(content)


MISFITS = {  # what is written under pretrain.semantoks-demo, and what is said about it
    "unknown task": ({"finetune": ["aeg"]}, "pretrain.semantoks-demo.finetune: .*aeg.* did you mean 'age'"),
    "other content": ({"finetune": ["volume"]}, r"the datasets of task volume hold volume \(gm\), not what the recipe"),
    "nobody in common": ({"finetune": ["other"]}, "the recipe is trained on none of the datasets of task other"),
    "split left out": ({"finetune": ["age"], "splits": ["second"]}, "task age is judged by the split main, which"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_a_recipe_is_tuned_for_tasks_that_judge_it(content, change, message):
    content["datasets"] |= {
        "maps": {"kind": "cat12", "path": "maps"},
        "others": {"kind": "series", "path": "others", "atlas": "toy"},
    }
    content["splits"]["second"] = content["splits"]["main"]
    content["tasks"] |= {
        "volume": content["tasks"]["age"] | {"datasets": ["maps"], "confounds": []},
        "other": content["tasks"]["age"] | {"datasets": ["others"]},
    }
    recipe = content["pretrain"]["semantoks-demo"] = {"datasets": ["demo"], "finetune": ["diagnosis", "age"]}
    assert config.parse(content).pretrain["semantoks-demo"].finetune == ["diagnosis", "age"]
    recipe.update(change)
    with pytest.raises(ConfigError, match=message):
        config.parse(content)


def elsewhere(content: dict, **pretrain) -> None:
    """Add a dataset that a task tests on, and perhaps a recipe that learns from it."""
    content["datasets"]["away"] = {"kind": "fmriprep", "path": "nowhere"}
    content["tasks"]["age"]["test_datasets"] = ["away"]
    if pretrain:
        content["pretrain"]["far"] = {"datasets": ["away"], "recipe": "r.yaml", **pretrain}


def test_a_test_dataset_is_one_that_nothing_learns_from(content):
    elsewhere(content, people="train_side")  # where no split trains on it
    study = config.parse(content)
    assert study.tasks["age"].asked == ["demo", "away"] and study.split_datasets("main")[0] == "demo"
    assert "away" not in study.split_datasets("main")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda c: c["tasks"]["age"].update(test_datasets=["awy"]),
            "tasks.age.test_datasets: found 'awy', did you mean",
        ),
        (
            lambda c: c["tasks"]["age"].update(test_datasets=["demo"]),
            "test_datasets: demo is one of the datasets of diag",
        ),
        (
            lambda c: c["tasks"]["state"].update(test_datasets=["away"]),
            "tasks.state.test_datasets: clips are not judged",
        ),
        (lambda c: c["datasets"]["away"].update(kind="cat12"), "tasks.age.datasets: expected datasets of one content"),
        (lambda c: elsewhere(c, people="external"), r"pretrain.far learns from away \(people: external\); no training"),
        (lambda c: elsewhere(c, people="everyone"), r"pretrain.far learns from away \(people: everyone\); no training"),
        (
            lambda c: (link(c, near="away"), elsewhere(c, people="external", datasets=["near"])),
            "pretrain.far learns from near",
        ),
    ],
)
def test_a_test_dataset_that_something_sees_is_refused(content, change, expected):
    elsewhere(content)
    change(content)
    with pytest.raises(ConfigError, match=expected):
        config.parse(content)


def test_released_weights_embed_test_datasets_and_other_splits_may_learn_from_them(content):
    elsewhere(content, people="external", checkpoint="weights.safetensors", datasets=["demo", "away"])
    content["splits"]["other"] = {"scheme": "kfold"}
    content["tasks"]["elsewhere"] = {"target": "age", "kind": "regression", "datasets": ["away"], "split": "other"}
    config.parse(content)
