"""The study's configuration: what the graph needs, checked as a whole, every mistake shown at once.

`load` reads a ``config.yaml`` into frozen objects. The attribute docstrings of the sections are the
reference of the file and the source of ``workflow/schemas/config.schema.json``.

    study           the file as a whole: StudyConfig, load, parse, schema
    datasets, events, atlases, clean, volumes, evaluation        its sections
    presets         what a published system fills in
    messages, agreement         mistakes within a section, and between sections
    base            what all of these share
"""

from neuropipe.config.atlases import SURFACE_SPACE, AtlasFile
from neuropipe.config.base import Section, expand, read_yaml
from neuropipe.config.clean import Clean, ColumnStrategy, Exclude, Shards, Strategy
from neuropipe.config.datasets import Dataset, Roles
from neuropipe.config.evaluation import (
    BESIDE,
    EXTERNAL,
    FROM_SCRATCH,
    HARMONISED,
    RANDOM_WEIGHTS,
    REFERENCES,
    Evaluate,
    Pretrain,
    Split,
    Task,
    fits,
    reference_of,
)
from neuropipe.config.events import LABELMAPS, Events, Label
from neuropipe.config.messages import mistakes
from neuropipe.config.presets import PRESETS, preset_names
from neuropipe.config.study import RECIPES, StudyConfig, load, parse, schema
from neuropipe.config.volumes import Volumes

__all__ = [
    "BESIDE",
    "EXTERNAL",
    "FROM_SCRATCH",
    "HARMONISED",
    "LABELMAPS",
    "PRESETS",
    "RANDOM_WEIGHTS",
    "RECIPES",
    "REFERENCES",
    "SURFACE_SPACE",
    "AtlasFile",
    "Clean",
    "ColumnStrategy",
    "Dataset",
    "Evaluate",
    "Events",
    "Exclude",
    "Label",
    "Pretrain",
    "Roles",
    "Section",
    "Shards",
    "Split",
    "Strategy",
    "StudyConfig",
    "Task",
    "Volumes",
    "expand",
    "fits",
    "load",
    "mistakes",
    "parse",
    "preset_names",
    "read_yaml",
    "reference_of",
    "schema",
]
