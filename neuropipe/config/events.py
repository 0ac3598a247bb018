"""Events: how events.tsv becomes labelled clips, and the label maps that ship."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neuropipe.config.base import PACKAGE, Section, Share, expand, read_yaml
from neuropipe.errors import ConfigError

LABELMAPS = PACKAGE / "labelmaps"


class Label(Section):
    """Where one label comes from."""

    conditions: Annotated[list[str], Field(min_length=1)]
    """Conditions of events.tsv, or shell patterns (``*_body``), that are this label."""
    tasks: list[str] = Field(default_factory=list)
    """Only in runs of these BIDS tasks (patterns, in capitals or not); default: in any."""


class Events(Section):
    """How events.tsv becomes labelled clips; keys given here replace those of a preset that `labels` names."""

    path: str | None = None
    """Folder with the events.tsv files, usually the raw BIDS dataset; null: the data's folder, or above it up to the
    BIDS root. Environment variables may be used, as in the dataset's ``path``."""
    column: str | Annotated[list[str], Field(min_length=1)] = "trial_type"
    """Column that names the condition; several are joined by ``_``."""
    labels: str | list[str] | dict[str, str | list[str] | Label] | None = None
    """Label map: a preset (``hcp7``, ``mdtb``), a YAML file of this section's keys, a list of conditions, or label ->
    conditions. Its order gives the label ids. null: every condition is a label, in alphabetical order."""
    merge: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """New name -> conditions or patterns that are renamed to it before labels are looked up."""
    exclude: list[str] = Field(default_factory=list)
    """Conditions or patterns that are never labelled, though something happens: they part blocks and are no rest."""
    ignore: list[str] = Field(default_factory=list)
    """Conditions or patterns that are treated as not there, e.g. button presses."""
    delay_s: Annotated[float, Field(ge=0, le=30)] = 4.5
    """Haemodynamic delay between an event and its clip, in s. A block of 10 to 30 s moved by 4.4 to 4.7 s correlates
    best with its response by the canonical function of Glover (1999, NeuroImage 9:416); a test computes it."""
    duration_s: Annotated[float, Field(gt=0)] | None = None
    """Length of every clip in s; null: the event's own duration."""
    join_gap_s: Annotated[float, Field(ge=0)] | None = None
    """Events of one condition that follow each other within this gap in s are one block; null: never joined."""
    overlap: Literal["drop", "keep"] = "drop"
    """Clips of different labels that overlap by more than the time of one sample (less is trimmed): ``drop`` both, or
    ``keep`` both."""
    rest: str = "rest"
    """Condition that gaps and resting runs get."""
    min_rest_s: Annotated[float, Field(gt=0)] | None = None
    """Gaps without any event of at least this length in s become clips of rest; null: gaps are no clips."""
    rest_tasks: list[str] = Field(default_factory=list)
    """Tasks (patterns, in capitals or not) whose runs are rest from end to end and need no events.tsv."""
    rest_s: Annotated[float, Field(gt=0)] | tuple[float, float] | None = None
    """Rest is cut into pieces of this length in s, or of whole seconds drawn from ``[from, to)``; null: not cut."""
    min_duration_s: Annotated[float, Field(ge=0)] = 0
    """Clips with less recorded time in s are left out; one sample is always needed."""
    max_censored_share: Share | None = 0.5
    """Clips with a larger share of censored samples are left out; null switches the rule off."""
    start_time_s: float | None = None
    """Time of the image's first volume on the clock of the onsets in s, e.g. where volumes were cut off before
    fMRIPrep; null: ``StartTime`` of the image's sidecar, or 0 where it is not known."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, content: Any) -> Any:
        """Fill in what a named preset or file says and `content` does not."""
        if not isinstance(content, dict) or not isinstance(content.get("labels"), str):
            return content
        name = content["labels"]
        own_file = name.endswith((".yaml", ".yml"))
        path = Path(expand(name)) if own_file else LABELMAPS / f"{name}.yaml"
        if not path.is_file():
            presets = ", ".join(sorted(found.stem for found in LABELMAPS.glob("*.yaml")))
            raise ValueError(f"labels: no label map {name!r}; expected a preset ({presets}) or an existing .yaml file")
        try:
            preset = read_yaml(path)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if isinstance(preset.get("labels"), str):
            raise ValueError(f"{path} names another label map ({preset['labels']}); write the labels themselves")
        return preset | {key: value for key, value in content.items() if key != "labels"}

    @model_validator(mode="after")
    def _rest(self) -> Events:
        labels = self.label_map()
        if labels is not None and not labels:
            raise ValueError(
                "labels: expected at least one label, found none; leave the key out to take every condition"
            )
        if (self.min_rest_s or self.rest_tasks) and labels is not None and not _listed_as(self.rest, labels):
            raise ValueError(
                f"rest is asked for, but no label has the condition {self.rest!r}; add it to labels, or drop "
                "min_rest_s and rest_tasks"
            )
        if isinstance(self.rest_s, tuple) and not 0 < self.rest_s[0] < self.rest_s[1]:
            raise ValueError(f"rest_s: expected two lengths in s, the shorter first, found {list(self.rest_s)}")
        return self

    def label_map(self) -> dict[str, Label] | None:
        """Return the labels in the order of their ids; None where every condition is a label of its own."""
        if self.labels is None or isinstance(self.labels, str):
            return None
        if isinstance(self.labels, list):
            return {name: Label(conditions=[name]) for name in self.labels}
        made = {name: [value] if isinstance(value, str) else value for name, value in self.labels.items()}
        return {name: value if isinstance(value, Label) else Label(conditions=value) for name, value in made.items()}


def _listed_as(condition: str, labels: dict[str, Label]) -> bool:
    """Return whether some label takes `condition`."""
    return any(fnmatch.fnmatchcase(condition, pattern) for label in labels.values() for pattern in label.conditions)
