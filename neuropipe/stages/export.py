"""Write a model for others: as a Hugging Face repository without this package, or as a plugin for Brainmarks."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe export``."""
    layout = parser.add_mutually_exclusive_group(required=True)
    layout.add_argument(
        "--huggingface",
        type=Path,
        metavar="MODEL_DIR",
        help="for AutoModel and AutoModelForSequenceClassification: a folder below models/ or finetuned/ of neuroclr",
    )
    layout.add_argument(
        "--brainmarks",
        type=Path,
        metavar="MODEL_DIR",
        help="a plugin for the Brainmarks suite: a folder below models/ of any family that reads series",
    )
    parser.add_argument(
        "--card", type=Path, help="of --huggingface: <study>/report/models/<recipe>.md, joined to README.md"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the repository")


def run(
    *, huggingface: Path | None = None, brainmarks: Path | None = None, card: Path | None = None, output: Path
) -> None:
    """Write a repository that ``transformers`` loads with ``trust_remote_code=True``, or a Brainmarks plugin.

    Raises
    ------
    CheckpointError
        The folder holds no model that this layout has room for.
    InputError
        There is no card at `card`.
    """
    from neuropipe.hub import cards
    from neuropipe.paths import write_text

    about = cards.read(card) if card is not None else None
    if brainmarks is not None:
        from neuropipe.hub import brainmarks as plugin

        name = plugin.write(brainmarks, output)
        log.info("export: pip install %s, then Brainmarks knows the model as %s", output, name)
        return
    from neuropipe.hub import huggingface as repository

    repository.write(huggingface, output)
    if about is not None:
        readme = output / "README.md"
        write_text(readme, cards.join(readme.read_text(encoding="utf-8"), about))
    log.info("export: %s is in %s; README.md says how to load it", huggingface, output)
