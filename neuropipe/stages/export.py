"""Write a model for others to load without this package."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe export``."""
    parser.add_argument(
        "--huggingface",
        type=Path,
        required=True,
        metavar="MODEL_DIR",
        help="for AutoModel and AutoModelForSequenceClassification: a folder below models/ or finetuned/ of neuroclr",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the repository")


def run(*, huggingface: Path, output: Path) -> None:
    """Write a repository that ``transformers`` loads with ``trust_remote_code=True``.

    Raises
    ------
    CheckpointError
        The folder holds no model that this layout has room for.
    """
    from neuropipe.hub import huggingface as repository

    repository.write(huggingface, output)
    log.info("export: %s is in %s; README.md says how to load it", huggingface, output)
