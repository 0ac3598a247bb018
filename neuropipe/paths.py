"""Where a study's products live, and writing them so that a killed process leaves nothing half done."""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuropipe.disk import refusals_told
from neuropipe.errors import InputError

MODELS = "models/<recipe>/seed-<seed>/receipt.json"  # of a study


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` only when the block succeeds.

    The temporary name keeps the suffixes of the final one, so that writers which look at them
    (nibabel, gzip) do the right thing, and starts with ``.tmp-`` so that no reader picks it up.

    Raises
    ------
    WriteError
        The disk is full, or does not let itself be written to; the old file is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        with refusals_told(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # a disk that went away has taken it along
            temporary.unlink()


def remove_partial(path: str | Path) -> None:
    """Remove what killed processes left of `path` under temporary names; for the holder of its lock only."""
    path = Path(path)
    for partial in path.parent.glob(f".tmp-*-{glob.escape(path.name)}"):
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_if_changed(path: str | Path, text: str) -> bool:
    """Write `text` only where the file's content differs; return whether it was written."""
    path = Path(path)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


class Study:
    """The product tree of one study, ``results/<study>/``; every path is made here and nowhere else."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @classmethod
    def of(cls, product: str | Path, shape: str) -> Study:
        """Return the study that a product lies in.

        Parameters
        ----------
        product : path
            As a user gives it: absolute, or relative to any folder.
        shape : str
            Where it lies in a study, e.g. ``shards/<dataset>/manifest.parquet``; the first folder's name counts.

        Raises
        ------
        InputError
            It lies elsewhere.
        """
        path, up = Path(product), shape.count("/")
        if ".." in path.parts or len(path.parents) <= up:
            path = Path(os.path.abspath(path))
        if len(path.parents) <= up or path.parts[-1 - up] != shape.partition("/")[0]:
            raise InputError(
                f"{product}: expected a path in a study, results/<study>/{shape}, found {os.path.abspath(product)}; "
                "the folders above it tell where everything else of the study lies."
            )
        return cls(path.parents[up])

    def relative(self, path: str | Path) -> str:
        """Return where a file lies as seen from the study, with slashes."""
        return os.path.relpath(path, self.root).replace(os.sep, "/")

    def __fspath__(self) -> str:
        return str(self.root)

    def manifest(self, dataset: str) -> Path:
        """All runs of a dataset that can be used."""
        return self.root / "index" / dataset / "runs.tsv"

    def chunk(self, dataset: str, chunk: int | str) -> Path:
        """The manifest of one job."""
        return self.root / "index" / dataset / f"chunk-{int(chunk):02d}.tsv"

    def participants(self, dataset: str) -> Path:
        """The dataset's people with the columns that roles, tasks and splits name."""
        return self.root / "index" / dataset / "participants.tsv"

    def index_excluded(self, dataset: str) -> Path:
        """Runs that the index could not use, with the reason."""
        return self.root / "index" / dataset / "excluded.tsv"

    def events(self, dataset: str) -> Path:
        """The events.tsv of each run."""
        return self.root / "index" / dataset / "events.tsv"

    def derivatives(self, dataset: str) -> Path:
        """Clean regional series with BIDS-derivative names."""
        return self.root / "derivatives" / dataset

    def receipt(self, stage: str, dataset: str, chunk: int | str) -> Path:
        """The list of products of one chunk job; its only declared output."""
        return self.root / "receipts" / dataset / f"{stage}-{int(chunk):02d}.json"

    def shards(self, dataset: str) -> Path:
        """Tars, ``manifest.parquet``, ``regions.tsv`` and ``dataset.h5`` of a dataset."""
        return self.root / "shards" / dataset

    def clips(self, dataset: str) -> Path:
        """Labelled windows of the recordings in the shards."""
        return self.root / "shards" / dataset / "clips.parquet"

    def clips_receipt(self, dataset: str) -> Path:
        """What became of the events that are no clips."""
        return self.root / "receipts" / dataset / "clips.json"

    def qc(self, dataset: str) -> Path:
        """Quality of a dataset: ``index.html``, its pictures in ``runs/``, ``runs.parquet``, ``regions.parquet``."""
        return self.root / "qc" / dataset

    def split(self, split: str) -> Path:
        """``splits.parquet`` and ``audit.json`` of a named split."""
        return self.root / "splits" / split

    def model(self, recipe: str, seed: int | str) -> Path:
        """One training run: ``receipt.json`` and one folder per split and fold."""
        return self.root / "models" / recipe / f"seed-{seed}"

    def embeddings(self, recipe: str, seed: int | str) -> Path:
        """Embeddings of every fold's model and of the same network with random weights."""
        return self.root / "embeddings" / recipe / f"seed-{seed}"

    def finetuned(self, task: str, recipe: str, seed: int | str) -> Path:
        """Networks of one recipe and seed trained for one task: ``receipt.json`` and one folder per split and fold."""
        return self.root / "finetuned" / task / recipe / f"seed-{seed}"

    def task(self, task: str, part: str) -> Path:
        """Predictions of a task: ``probe``, ``baselines``, ``decoding`` or ``finetune/<recipe>_seed-<k>``."""
        return self.root / "tasks" / task / part

    @property
    def report(self) -> Path:
        """The one HTML page."""
        return self.root / "report" / "index.html"
