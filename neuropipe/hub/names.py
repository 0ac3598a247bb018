"""Where a named checkpoint lies: a path, or ``hf:owner/name[@revision][:file]`` on the Hugging Face hub.

The hub's own client resolves such names, in its cache first where there is no network (or HF_HUB_OFFLINE=1).
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import ModuleType

from neuropipe.errors import CheckpointError

log = logging.getLogger("neuropipe")

PREFIX = "hf:"
NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<file>[^:]+))?")
WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")  # in the order in which they are preferred


def locate(name: str | Path) -> Path:
    """Return the file that a path or an ``hf:`` name means; from the hub it is fetched unless it is cached.

    Of a folder or repository it is the one file of weights; a ``config.json`` beside it is fetched too.

    Raises
    ------
    CheckpointError
        The name is malformed, the hub's client is not installed, or the hub has no such file or cannot be reached.
    """
    if not str(name).startswith(PREFIX):
        path = Path(name)
        return path / _only_weights([held.name for held in path.iterdir()], str(name)) if path.is_dir() else path
    parts = NAME.fullmatch(str(name))
    if parts is None:
        raise CheckpointError(f"Expected hf:owner/name[@revision][:file], found {str(name)!r}.")
    client = _client(str(name))
    repo, revision = parts["repo"], parts["revision"]
    file = parts["file"] or _only_weights(_files(client, repo, revision), str(name))
    try:
        found = Path(client.hf_hub_download(repo, file, revision=revision))
    except Exception as error:  # of the client: its own, its transport's, the system's
        raise _unreachable(str(name), error) from error
    try:
        client.hf_hub_download(repo, str(Path(file).with_name("config.json")), revision=revision)
    except Exception as error:  # as above; most releases have none
        log.info("%s: without a config.json (%s)", name, type(error).__name__)
    return found


def _client(name: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{name} is on the Hugging Face hub, whose client is not installed: pip install 'neuropipe[hub]', or fetch "
            "the file by other means and name its path."
        ) from error
    return huggingface_hub


def _files(client: ModuleType, repo: str, revision: str | None) -> list[str]:
    """Return the files of a repository; without the hub those of its snapshot in the cache."""
    try:
        return client.list_repo_files(repo, revision=revision)
    except Exception as error:  # as above
        try:
            folder = Path(client.snapshot_download(repo, revision=revision, local_files_only=True))
        except Exception:
            raise _unreachable(f"{PREFIX}{repo}", error) from error
        return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _only_weights(files: list[str], name: str) -> str:
    """Return the one file of weights, of the preferred type where there are several types.

    A file beside the README is the repository's own; those in subfolders are then others.
    """
    for suffix in WEIGHTS:
        found = sorted(file for file in files if file.endswith(suffix))
        at_top = [file for file in found if "/" not in file]
        found = at_top if len(at_top) == 1 else found
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{name} has {len(found)} files of weights: {', '.join(found)}; name one as {name}:FILE."
            )
    raise CheckpointError(f"{name} has no file of weights ({', '.join(WEIGHTS)}); found {sorted(files) or 'nothing'}.")


def _unreachable(name: str, error: Exception) -> CheckpointError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{name} is neither in the cache of the Hugging Face hub nor can it be fetched ({first}). Check the name and "
        "the network, or fetch the file elsewhere and name its path."
    )
