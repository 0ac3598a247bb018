"""Atlases of the catalogue: list them, fetch them into the cache, show what one holds and draw it."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from neuropipe import config as configuration
from neuropipe.config import AtlasFile
from neuropipe.errors import AtlasError, ConfigError
from neuropipe.paths import atomic, write_text
from neuropipe.signals import atlases, cache, catalogue
from neuropipe.signals.catalogue import CATALOGUE, Entry, Remote

WIDTH = 100


@dataclass(frozen=True)
class Listing:
    """Lines to print."""

    lines: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=("list", "fetch", "show"), help="what to do")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="ATLAS",
        help="list: text that ids contain; fetch: ids, or a transform such as MNI152NLin6Asym-to-MNI152NLin2009cAsym; "
        "show: ids",
    )
    parser.add_argument("--output", metavar="PNG", help="show: where the picture goes (default: the cache)")
    parser.add_argument("--config", metavar="PATH", help="show: config.yaml whose own atlases may be named too")


def run(*, action: str, names: list[str], output: str | None = None, config: str | None = None) -> Listing:
    """List, fetch or show atlases.

    Raises
    ------
    AtlasError
        An id is unknown, cannot be fetched, or was altered.
    """
    if action == "list":
        return Listing(_families() if not names else _table(names))
    if not names:
        raise ConfigError(f"neuropipe atlas {action} needs the id of an atlas; see neuropipe atlas list.")
    if action == "fetch":
        return Listing([line for name in names for line in fetch(name)])
    if output is not None and len(names) > 1:
        raise ConfigError(f"--output names one picture; found {len(names)} atlases. Show them one by one.")
    own = {} if config is None else _own(config)
    return Listing([line for name in names for line in show(own.get(name, name), output)])


def _own(config: str) -> dict[str, AtlasFile]:
    specs = configuration.load(config).atlases
    return {spec.id: spec for spec in specs if isinstance(spec, AtlasFile)}


# --- list ---------------------------------------------------------------------------------------


def _families() -> list[str]:
    """Return the whole catalogue, in paragraphs of one source and licence."""
    lines = []
    families: dict[tuple[str, str], list[Entry]] = {}
    for entry in CATALOGUE.values():
        families.setdefault((entry.citation, entry.licence), []).append(entry)
    for (citation, licence), entries in families.items():
        parts = dict.fromkeys(entry.title.split(",")[0] for entry in entries)
        lines.append(f"{' and '.join(parts)}: {citation.split(',')[0]} ({licence})")
        for space in dict.fromkeys(entry.space for entry in entries):
            ids = " ".join(_marked(entry) for entry in entries if entry.space == space)
            lines += textwrap.wrap(
                ids, WIDTH, initial_indent=f"  {space:<21}", subsequent_indent=" " * 23, break_on_hyphens=False
            )
    names = [catalogue.transform_name(*pair) for pair in catalogue.TRANSFORMS]
    here = [cache.locate(catalogue.transform(*pair)) is not None for pair in catalogue.TRANSFORMS]
    transforms = " ".join(f"{name}{'*' if there else ''}" for name, there in zip(names, here, strict=True))
    lines += ["Transforms between spaces, for warp: true", f"  {transforms}"]
    return [
        *lines,
        "",
        f"{len(CATALOGUE)} atlases; * is on this machine. One line each: neuropipe atlas list TEXT.",
        "What one is, with a picture: neuropipe atlas show ID. To bring it here: neuropipe atlas fetch ID.",
    ]


def _marked(entry: Entry) -> str:
    return entry.id + ("*" if _is_here(entry) else "")


def _is_here(entry: Entry) -> bool:
    return all(cache.locate(remote) for remote in _files(entry))


def _files(entry: Entry) -> list[Remote]:
    return [entry.image] if entry.table is None else [entry.image, entry.table]


def _table(names: Iterable[str]) -> list[str]:
    """Return one line for each atlas whose id or space contains one of `names`."""
    wanted = [name.lower() for name in names]
    entries = [e for e in CATALOGUE.values() if any(w in e.id or w in e.space.lower() for w in wanted)]
    if not entries:
        raise AtlasError(f"No id of an atlas contains {' or '.join(names)}; see neuropipe atlas list.")
    head = ("id", "regions", "kind", "space", "here", "source", "licence")
    rows = [head]
    for e in entries:
        here = "yes" if _is_here(e) else "no"
        rows.append((e.id, str(e.n_regions), e.kind, e.space, here, e.image.source, e.licence))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# --- show ---------------------------------------------------------------------------------------


def show(spec: str | AtlasFile, output: str | None = None) -> list[str]:
    """Return what is known of an atlas; where it is on this machine its networks too, and draw it.

    Parameters
    ----------
    spec : str or AtlasFile
        Id of the catalogue, or a user's own atlas.
    output : str, optional
        The picture; default ``pictures/<id>.png`` in the cache.
    """
    if isinstance(spec, str):
        entry = catalogue.entry(spec)
        lines = _described(entry)
        if not _is_here(entry):
            return [*lines, f"  fetch it   neuropipe atlas fetch {entry.id}"]
        name = entry.id
    else:
        name, lines = spec.id, [f"{spec.id}: {spec.image}", f"  space      {spec.space}"]
    atlas = atlases.load(spec)
    lines += _measured(atlas)
    path = Path(output) if output else cache.cache_folder() / "pictures" / f"{name}.png"
    return [*lines, _draw(atlas, path)]


def _described(entry: Entry) -> list[str]:
    lines = [
        f"{entry.id}: {entry.title}",
        f"  space      {entry.space}",
        f"  regions    {entry.n_regions}",
        f"  licence    {entry.licence}",
        f"  citation   {entry.citation}",
    ]
    for remote in _files(entry):
        path = cache.locate(remote)
        lines.append(f"  {'file' if path else 'missing':<10} {path or remote.file} ({remote.source}: {remote.url})")
        lines.append(f"  sha256     {remote.sha256 or 'not published; the first fetch is recorded and checked'}")
    return lines


def _measured(atlas: atlases.Atlas) -> list[str]:
    zooms = " x ".join(f"{size:.3g}" for size in np.sqrt((atlas.affine[:3, :3] ** 2).sum(axis=0)))
    shape = " x ".join(map(str, atlas.shape))
    networks = atlas.table["network"].value_counts(sort=False)
    counts = [f"{name} {n}" for name, n in networks.items() if name]
    names = atlas.table["name"]
    lines = [f"  grid       {shape}, {zooms} mm", *_wrapped("networks", ", ".join(counts) or "none named")]
    order = atlases.regions([atlas]).order
    if order:
        lines.append(f"  order      {order}")
    if atlas.labels is not None:
        volume = abs(np.linalg.det(atlas.affine[:3, :3])) / 1000
        sizes = np.bincount(atlas.labels[atlas.labels > 0], minlength=atlas.table["value"].max() + 1)
        sizes = sizes[atlas.table["value"]] * volume
        smallest = names.iloc[int(sizes.argmin())]
        lines.append(f"  sizes      {sizes.min():.2f} to {sizes.max():.2f} ml; the smallest is {smallest}")
    return [*lines, f"  names      {', '.join(names.head(3))} ... {names.iloc[-1]}"]


def _wrapped(key: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {key:<11}", subsequent_indent=" " * 13)


def _draw(atlas: atlases.Atlas, path: Path) -> str:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "  picture    none: it needs matplotlib (pip install matplotlib)"
    from neuropipe.signals.pictures import draw

    draw(atlas, path)
    return f"  picture    {path}"


# --- fetch --------------------------------------------------------------------------------------


def fetch(name: str) -> list[str]:
    """Bring the files of an atlas, or a transform, into the cache, unless they are on this machine; check them.

    A file whose checksum is not published is trusted the first time: what came is recorded in the
    cache, and every later use is held to that.

    Raises
    ------
    AtlasError
        The download failed, or is not what was published.
    """
    pair = catalogue.TRANSFORM_NAME.match(name)
    files = [catalogue.transform(**pair.groupdict())] if pair else _files(catalogue.entry(name))
    lines = []
    for remote in files:
        if cache.locate(remote) is None:
            bring = {"nilearn": _by_nilearn, "templateflow": _by_templateflow, "url": _by_url}[remote.source]
            bring(name, remote)
        path, checksum = cache.verified(remote, name)
        record = cache.record_of(remote)
        if remote.sha256 is None and not record.is_file():
            write_text(record, f"{checksum}  {path.name}\n")
        lines.append(f"{name}: {path} (sha256 {checksum})")
    return lines


def _by_url(name: str, remote: Remote) -> None:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it would tell the user to write checksums down
    target = cache.cache_folder() / remote.file
    known = f"sha256:{remote.sha256}" if remote.sha256 else None
    try:
        with atomic(target) as temporary:
            pooch.retrieve(remote.url, known, fname=temporary.name, path=temporary.parent, progressbar=False)
    except ValueError as error:  # pooch: the checksum differs
        raise AtlasError(f"{remote.url} is not the published file of {name}: {error}") from error
    except OSError as error:  # requests' errors are OSErrors
        raise _not_fetched(name, remote, target, error) from error


def _not_fetched(name: str, remote: Remote, target: Path, error: Exception) -> AtlasError:
    return AtlasError(
        f"{name} could not be fetched from {remote.url} ({error}). Without a network, copy the file from another "
        f"machine to {target}."
    )


def _by_templateflow(name: str, remote: Remote) -> None:
    """Let TemplateFlow's client fetch a file into its own folder, where fMRIPrep and others find it too."""
    root = cache.templateflow_folder()
    target = root / remote.file
    os.environ.setdefault("TEMPLATEFLOW_HOME", os.fspath(root))  # else its import fills a folder in the home
    from templateflow.client import TemplateFlowClient

    template, entities = _entities(target.name)
    try:
        client = TemplateFlowClient(root=root, s3_root=catalogue.TEMPLATEFLOW)
        if not client.ls(template, **entities):
            raise AtlasError(f"{name}: TemplateFlow does not list {remote.file}; try: pip install -U templateflow")
        client.get(template, **entities)
    except (RuntimeError, OSError) as error:
        if target.is_file() and os.access(target, os.W_OK):
            target.write_bytes(b"")  # what came in part must not look whole; empty is TemplateFlow's own mark
        raise _not_fetched(name, remote, target, error) from error


def _entities(file: str) -> tuple[str, dict[str, Any]]:
    """Return the template and the entities by which TemplateFlow's client finds one file."""
    stem, _, extension = file.partition(".")
    template, *pairs, suffix = stem.split("_")
    entities: dict[str, Any] = {"resolution": None, "desc": None, "suffix": suffix, "extension": f".{extension}"}
    for key, _, value in (pair.partition("-") for pair in pairs):
        entities |= {"resolution": int(value)} if key == "res" else {key: value}
    return template.removeprefix("tpl-"), entities


def _by_nilearn(name: str, remote: Remote) -> None:
    """Let nilearn fetch an atlas; keep its label image and names in the cache, in the catalogue's form."""
    import nibabel as nib
    from nilearn import datasets

    fetcher, _, query = remote.url.partition("?")
    arguments: dict[str, Any] = {key: int(v) if v.isdigit() else v for key, v in parse_qsl(query)}
    folder = cache.cache_folder() / "nilearn"
    try:
        found = getattr(datasets, fetcher)(**arguments, data_dir=os.fspath(folder), verbose=0)
    except OSError as error:
        raise AtlasError(f"nilearn could not fetch {name} ({error}); try again with a network.") from error
    target = cache.cache_folder() / remote.file
    if target.suffix == ".tsv":
        labels = list(enumerate(found.labels))
        write_text(target, "index\tname\n" + "".join(f"{i}\t{label}\n" for i, label in labels))
        return
    image = found.maps if hasattr(found.maps, "dataobj") else nib.load(found.maps)
    with atomic(target) as temporary:  # uncompressed, so that the same image always has the same bytes
        nib.save(image, temporary)
