"""The whole configuration: its sections together, how they are read, checked and described."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from neuropipe.config.agreement import disagreements
from neuropipe.config.atlases import AtlasFile
from neuropipe.config.base import PACKAGE, Name, Section, read_yaml
from neuropipe.config.clean import Clean, Exclude, Shards
from neuropipe.config.datasets import Content, Dataset, roots_of
from neuropipe.config.evaluation import Evaluate, Pretrain, Split, Task, fits
from neuropipe.config.messages import lines_of, message
from neuropipe.config.presets import with_preset
from neuropipe.config.volumes import Volumes
from neuropipe.errors import ConfigError

RECIPES = PACKAGE / "recipes"
# Items of TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378): 27, some of which have parts.
PARTS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
TRIPOD = [f"{item}{part}" for item in range(1, 28) for part in PARTS.get(item, [""])]


class StudyConfig(Section):
    """A study: datasets in, believed numbers out."""

    study: Name
    """Products go to ``results/<study>/``."""
    preset: str | None = None
    """Preprocessing of a published system (``neuropipe/presets``): fills atlases, clean and exclude where silent."""
    seed: int = 0
    """Seed of everything that no other seed governs."""
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    """Named datasets."""
    atlases: list[str | AtlasFile] = Field(default_factory=list)
    """Catalogue ids or own files; one pass, one region table, in this order."""
    warp: bool = False
    """Bring atlases of another template space to that of the images, by TemplateFlow's transform; else refused."""
    clean: Clean = Clean()
    """Cleaning."""
    volumes: Volumes = Volumes()
    """Preparing maps of anatomy and slices."""
    exclude: Exclude = Exclude()
    """Exclusions."""
    shards: Shards = Shards()
    """Packing."""
    splits: dict[Name, Split] = Field(default_factory=dict)
    """Named splits."""
    tasks: dict[Name, Task] = Field(default_factory=dict)
    """Named tasks."""
    pretrain: dict[Name, Pretrain] = Field(default_factory=dict)
    """Named recipes."""
    evaluate: Evaluate = Evaluate()
    """Judging."""
    statements: dict[str, str] = Field(default_factory=dict)
    """What no table can tell, for the model cards: sentences by the item of TRIPOD+AI that they answer, e.g.
    ``{17: "Approved by ...", 18a: "Funded by ..."}``; the cards list what is still to be written."""

    @field_validator("statements", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Take ``17:`` for ``"17":``, since YAML reads a number there."""
        return {str(key): text for key, text in value.items()} if isinstance(value, dict) else value

    @field_validator("statements")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := [key for key in value if key not in TRIPOD]:
            raise ValueError(f"TRIPOD+AI has no item {', '.join(unknown)}; its items are {', '.join(TRIPOD)}")
        return value

    def recipe_path(self, name: str) -> Path:
        """Return the recipe file of a pretraining name."""
        chosen = self.pretrain[name].recipe
        return Path(chosen) if chosen else RECIPES / f"{name}.yaml"

    def contents(self, datasets: Iterable[str]) -> set[str]:
        """Return what the samples of some datasets are: series, volume, image."""
        return {self.datasets[name].content for name in datasets}

    def map_of(self, datasets: Iterable[str]) -> str | None:
        """Return which map of anatomy (gm, wm, t1w) datasets of one content hold; None where they hold no volumes."""
        held = [self.datasets[name].map or "gm" for name in datasets if self.datasets[name].content == "volume"]
        return held[0] if held else None

    def content(self, task: str) -> Content:
        """Return what the samples of a task's datasets are; they are all of one content."""
        return self.datasets[self.tasks[task].datasets[0]].content

    def samples(self, task: str) -> Content | Literal["clip"]:
        """Return what a task judges: labelled clips of series, or all that a person gave of some content."""
        return "clip" if self.tasks[task].kind == "decoding" else self.content(task)

    def baselines(self, task: str) -> list[str]:
        """Return the baselines that answer a task: those asked for that fit what its samples are."""
        return self._fitting(self.evaluate.baselines, task)

    def combined(self, task: str) -> list[str]:
        """Return the baselines that embeddings are joined with on a task: those asked for that fit its samples."""
        return self._fitting(self.evaluate.combine, task)

    def _fitting(self, baselines: Iterable[str], task: str) -> list[str]:
        content = self.samples(task)
        return [name for name in baselines if fits(name, content, bool(self.atlases))]

    def same_people(self) -> dict[str, str]:
        """Return, for every dataset with `people_of`, the dataset at the end of its chain, which names the people."""
        return roots_of({name: item.people_of for name, item in self.datasets.items() if item.people_of is not None})

    def judging_splits(self, recipe: str) -> list[str]:
        """Return the splits whose folds a recipe is trained for and judged by, sorted."""
        item = self.pretrain[recipe]
        named = self.splits if item.splits is None else item.splits
        return sorted(
            {
                task.split
                for task in self.tasks.values()
                if task.split in named and (item.people == "external" or self._learns_from(item, task))
            }
        )

    def _learns_from(self, item: Pretrain, task: Task) -> bool:
        """Return whether a recipe is trained on a task's datasets or, of clips, on other series of the same people."""
        if task.kind != "decoding":
            return bool(set(task.datasets) & set(item.datasets))
        links = self.same_people()
        own, asked = ({links.get(name, name) for name in names} for names in (item.datasets, task.datasets))
        return bool(own & asked) and self.contents(item.datasets) == {"series"}

    def split_datasets(self, split: str) -> list[str]:
        """Return the datasets whose people a split divides: those of the tasks that use it, in config order."""
        used = {name for task in self.tasks.values() if task.split == split for name in task.datasets}
        return [name for name in self.datasets if name in used]

    def stratified(self, split: str) -> Split:
        """Return a split with its `stratify` filled in: folds keep the classes that their tasks ask for."""
        item = self.splits[split]
        if item.stratify is not None:
            return item
        judged = [task for task in self.tasks.values() if task.split == split and "kfold" in item.scheme]
        classes = dict.fromkeys(task.target for task in judged if task.kind in ("binary", "multiclass"))
        return item.model_copy(update={"stratify": list(classes)})

    def series_atlas(self, dataset: str) -> str:
        """Return the joined atlas label of a dataset's file names (alphanumerics only)."""
        if self.datasets[dataset].ready_made:
            ids = self.datasets[dataset].atlas_ids or ["regions"]
        else:
            ids = [a if isinstance(a, str) else a.id for a in self.atlases]
        return re.sub(r"[^A-Za-z0-9]", "", "".join(ids))


def parse(content: dict[str, Any], source: str = "the configuration") -> StudyConfig:
    """Return the checked configuration of an already read mapping.

    Raises
    ------
    ConfigError
        With every mistake in one message.
    """
    content = with_preset(content)
    lines, config = [], None
    try:
        config = StudyConfig.model_validate(content)
    except ValidationError as error:
        lines = lines_of(error, StudyConfig)
    lines += disagreements(content)
    if lines:
        raise ConfigError(message(lines, source))
    assert config is not None
    return config


def load(path: str | Path) -> StudyConfig:
    """Read and check a study's configuration file."""
    return parse(read_yaml(path), str(path))


def schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml, which editors use to complete and check it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | StudyConfig.model_json_schema()
