"""What the Snakefile asks: which chunks, folds and files a study has, and what each job depends on.

Only the standard library, pydantic and yaml are imported here, because the Snakefile is parsed
again in every cluster job. Nothing here looks at data: the graph follows from the config alone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.config import Pretrain, StudyConfig
from neuropipe.errors import ConfigError
from neuropipe.paths import Study
from neuropipe.provenance import STAGE_VERSIONS, hash_json

DEFAULT_CONFIG = Path("config.yaml")


def config_path(configfiles: Sequence[str | Path]) -> Path:
    """Return the one configuration file of a run: ``--configfile``'s, or ``config.yaml``.

    Raises
    ------
    ConfigError
        Several files were given; Snakemake would merge them key by key, which mixes studies.
    """
    if len(configfiles) > 1:
        names = ", ".join(map(str, configfiles))
        raise ConfigError(
            f"One --configfile is one study; found {len(configfiles)}: {names}. Start snakemake once per study."
        )
    path = Path(configfiles[0]) if configfiles else DEFAULT_CONFIG
    # Snakemake makes it absolute; as part of every command it must read the same wherever the folder lies.
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def use_this_environment() -> None:
    """Let jobs find the ``neuropipe`` of the environment that runs Snakemake, whether or not it was activated."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


class Graph:
    """The paths and parameters of one study's jobs.

    Parameters
    ----------
    path : path
        The study's configuration file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.config: StudyConfig = configuration.load(path)
        self.study = Study(Path("results") / self.config.study)
        self.root = str(self.study.root)

    def params(self, stage: str, *sections: object) -> str:
        """Return what a job's rerun depends on beside its inputs: stage version and config sections."""
        dumped = [s.model_dump(mode="json") if hasattr(s, "model_dump") else s for s in sections]
        return f"{stage}-{STAGE_VERSIONS[stage]}-{hash_json(dumped)}"

    def index_params(self, dataset: str) -> str:
        """Return what the scan of a dataset depends on: its section, and what decides in which space images are.

        The space of a catalogue's atlas is not known here, so its id stands for it. Events are found by a rule of
        their own: what they say must not rerun anything but clips.
        """
        section = self.config.datasets[dataset].model_copy(update={"events": None})
        if section.content == "volume":  # whose grid the index checks
            grid = self.config.volumes.model_dump(include={"voxel_mm", "crop", "size"})
            return self.params("index", section, grid)
        if section.stage == "volumes" or section.ready_made:
            return self.params("index", section)
        spaces = [atlas if isinstance(atlas, str) else {"space": atlas.space} for atlas in self.config.atlases]
        return self.params("index", section, spaces, self.config.warp)

    def volumes_params(self, dataset: str) -> str:
        """Return what the maps or slices of a dataset depend on beside their manifest."""
        config, section = self.config, self.config.datasets[dataset]
        exclude = config.exclude.model_dump(include={"max_iqr_grade", "min_region_coverage", "runs"})
        own = (config.volumes, exclude, section.map, section.space)
        if section.content == "image":
            return self.params("volumes", *own)
        atlases = [a if isinstance(a, str) else a.model_dump() for a in config.atlases]
        return self.params("volumes", *own, atlases, config.warp)

    def index_products(self, dataset: str) -> dict[str, str]:
        """Return what the scan of a dataset writes beside the manifests of its chunks, by what it is.

        Of shards that were made elsewhere it is all that `collect` and `clips` would have written.
        """
        study = self.study
        products = {"participants": study.participants(dataset), "excluded": study.index_excluded(dataset)}
        if self.config.datasets[dataset].fetched:
            folder, quality = study.shards(dataset), study.qc(dataset)
            products |= {"manifest": folder / "manifest.parquet", "regions": folder / "regions.tsv"}
            products |= {"quality": quality / "runs.parquet", "coverage": quality / "regions.parquet"}
            products |= {"clips": study.clips(dataset)} if self.config.datasets[dataset].clips else {}
        else:
            products["runs"] = study.manifest(dataset)
        return {name: str(path) for name, path in products.items()}

    def chunks(self, dataset: str) -> list[str]:
        """Return the two-digit chunk labels of a dataset; shards that were made elsewhere have none here."""
        section = self.config.datasets[dataset]
        return [] if section.fetched else [f"{n:02d}" for n in range(section.n_chunks)]

    @property
    def prepared_here(self) -> list[str]:
        """Return the datasets whose samples this study makes itself."""
        return [name for name, section in self.config.datasets.items() if not section.fetched]

    @property
    def name_of_prepared(self) -> str:
        """Return the regular expression of their names."""
        return "|".join(map(re.escape, self.prepared_here)) or "(?!)"  # which nothing matches

    def prepared(self, dataset: str, chunk: str) -> str:
        """Return the receipt of what shards are made of: clean series, or maps and slices on one grid."""
        return str(self.study.receipt(self.config.datasets[dataset].stage, dataset, chunk))

    def all_prepared(self, dataset: str) -> list[str]:
        """Return these receipts over all chunks of a dataset."""
        return [self.prepared(dataset, chunk) for chunk in self.chunks(dataset)]

    def receipts(self, stage: str, dataset: str) -> list[str]:
        """Return the receipts of a stage over all chunks of a dataset."""
        return [str(self.study.receipt(stage, dataset, chunk)) for chunk in self.chunks(dataset)]

    def shard_products(self, dataset: str) -> list[str]:
        """Return what `snakemake shards_<dataset>` makes."""
        files, section = [f"{self.study.shards(dataset)}/manifest.parquet"], self.config.datasets[dataset]
        exchanged = self.config.shards.hdf5 and section.content == "series" and not section.fetched
        files += [f"{self.study.shards(dataset)}/dataset.h5"] * exchanged
        return files + [str(self.study.clips(dataset))] * (section.clips or section.events is not None)

    def published(self, dataset: str) -> str:
        """Return the address of the manifest that `snakemake publish` writes, after all that it names."""
        return f"{str(self.config.shards.publish).rstrip('/')}/{dataset}/manifest.parquet"

    def publishable(self, dataset: str) -> list[str]:
        """Return the files whose change publishes a dataset again."""
        clips = [str(self.study.clips(name)) for name in self.with_events([dataset])]
        return [*self.manifests([dataset]), f"{self.study.qc(dataset)}/runs.parquet", *clips]

    def with_events(self, datasets: Iterable[str] | None = None) -> list[str]:
        """Return those of some datasets (default: all) whose recordings are cut into labelled clips."""
        names = self.config.datasets if datasets is None else datasets
        return [name for name in names if self.config.datasets[name].events is not None]

    def manifests(self, datasets: Sequence[str]) -> list[str]:
        """Return the manifests of several datasets."""
        return [f"{self.study.shards(name)}/manifest.parquet" for name in datasets]

    def participants(self, datasets: Sequence[str]) -> list[str]:
        """Return the participants tables of several datasets, and of those that name their people."""
        links = self.config.same_people()
        named = dict.fromkeys([*datasets, *(links[name] for name in datasets if name in links)])
        return [str(self.study.participants(name)) for name in named]

    def training_labels(self, recipe: str) -> list[str]:
        """Return the participants tables that a recipe's loss may read labels from: those of maps and slices."""
        datasets = self.config.pretrain[recipe].datasets
        return [] if self.config.contents(datasets) == {"series"} else self.participants(datasets)

    def pretrain_sections(self, recipe: str) -> list[object]:
        """Return what training depends on beside its files: whom it learns from and, of anatomy, which map."""
        item = self.config.pretrain[recipe]
        decisive = {"people": item.people, "map": self.config.map_of(item.datasets), "checkpoint": item.checkpoint}
        return [value for value in decisive.values() if value is not None]

    def embed_sections(self) -> list[object]:
        """Return what embeddings depend on beside their files: whether a readout asks for tokens."""
        return ["tokens"] if "attentive" in self.config.evaluate.readouts else []

    def shard_folders(self, datasets: Sequence[str]) -> list[str]:
        """Return the folders of shards of several datasets."""
        return [str(self.study.shards(name)) for name in datasets]

    def split_tables(self, splits: Sequence[str]) -> list[str]:
        """Return the frozen tables of several splits."""
        return [f"{self.study.split(name)}/splits.parquet" for name in splits]

    def split_folders(self, splits: Sequence[str]) -> list[str]:
        """Return the folders of several splits."""
        return [str(self.study.split(name)) for name in splits]

    def judged_datasets(self, recipe: str) -> list[str]:
        """Return the datasets whose people a recipe's models must embed: those of its own kind of content."""
        judging = set(self.config.judging_splits(recipe))
        tasks = [task for task in self.config.tasks.values() if task.split in judging and task.kind != "decoding"]
        used = {name for task in tasks for name in task.asked}
        contents = self.config.contents(self.config.pretrain[recipe].datasets)
        return [name for name, item in self.config.datasets.items() if name in used and item.content in contents]

    def models(self, task: str | None = None) -> list[tuple[str, int]]:
        """Return the (recipe, seed) pairs of the study, or those that one task judges."""
        pairs = [(recipe, seed) for recipe, item in self.config.pretrain.items() for seed in item.seeds]
        if task is None:
            return pairs
        item = self.config.tasks[task]
        if item.kind == "decoding":  # clips are embedded by the task itself
            series = [name for name, own in self.config.pretrain.items() if self._reads_clips(own)]
            judged = {name for name in series if item.split in self.config.judging_splits(name)}
            return [(recipe, seed) for recipe, seed in pairs if recipe in judged]
        embedded = {recipe: set(self.judged_datasets(recipe)) for recipe in self.config.pretrain}
        return [
            (recipe, seed)
            for recipe, seed in pairs
            if item.split in self.config.judging_splits(recipe) and set(item.asked) <= embedded[recipe]
        ]

    def judged_recipes(self) -> list[str]:
        """Return the recipes that any task judges, which have a model card once the study is done."""
        judged = {recipe for task in self.config.tasks for recipe, _ in self.models(task)}
        return [recipe for recipe in self.config.pretrain if recipe in judged]

    def _reads_clips(self, recipe: Pretrain) -> bool:
        return self.config.contents(recipe.datasets) == {"series"}

    def receipts_of_models(self, task: str) -> list[str]:
        """Return the receipts of the models that a task judges."""
        return [f"{self.study.model(recipe, seed)}/receipt.json" for recipe, seed in self.models(task)]

    def clips(self, task: str) -> list[str]:
        """Return the labelled clips that a decoding task asks about."""
        return [str(self.study.clips(name)) for name in self.config.tasks[task].datasets]

    def embeddings(self, task: str) -> list[str]:
        """Return the receipts of the embeddings that a task reads."""
        return [f"{self.study.embeddings(recipe, seed)}/receipt.json" for recipe, seed in self.models(task)]

    def embedding_folders(self, task: str) -> list[str]:
        """Return the folders of the embeddings that a task reads."""
        return [str(self.study.embeddings(recipe, seed)) for recipe, seed in self.models(task)]

    def finetuned(self, task: str) -> list[tuple[str, int]]:
        """Return the (recipe, seed) pairs whose whole networks are trained for a task."""
        return [(recipe, seed) for recipe, seed in self.models(task) if task in self.config.pretrain[recipe].finetune]

    def predictions(self) -> list[str]:
        """Return the predictions of people of every task: probe, baselines, fine-tuned networks."""
        return [path for task in self._tasks(clips=False) for path in self.task_predictions(task)]

    def decodings(self) -> list[str]:
        """Return the predictions of clips of every decoding task."""
        return [path for task in self._tasks(clips=True) for path in self.task_predictions(task)]

    def _tasks(self, clips: bool) -> list[str]:
        return [name for name, task in self.config.tasks.items() if (task.kind == "decoding") == clips]

    def task_predictions(self, task: str) -> list[str]:
        """Return the predictions of one task: of its probe, where a model is judged, baselines, fine-tuned networks.

        Of a decoding task, baselines and frozen networks come from one job.
        """
        if self.config.tasks[task].kind == "decoding":
            parts = ["decoding", *(f"decoding-{recipe}_seed-{seed}" for recipe, seed in self.finetuned(task))]
            return [f"{self.study.task(task, part)}/decoding.parquet" for part in parts]
        parts = ["probe", "baselines"] if self.models(task) else ["baselines"]
        parts += [f"finetune/{recipe}_seed-{seed}" for recipe, seed in self.finetuned(task)]
        return [f"{self.study.task(task, part)}/predictions.parquet" for part in parts]

    def used_splits(self) -> list[str]:
        """Return the splits that tasks name, in the config's order."""
        used = {task.split for task in self.config.tasks.values()}
        return [name for name in self.config.splits if name in used]
