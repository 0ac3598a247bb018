"""Atlases of the catalogue: list them, fetch them into the cache, show what one holds."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from neuropipe.errors import AtlasError, ConfigError
from neuropipe.paths import atomic, write_text
from neuropipe.provenance import sha256
from neuropipe.signals import atlases
from neuropipe.signals.catalogue import CATALOGUE, Entry, Remote


@dataclass(frozen=True)
class Listing:
    """Lines to print."""

    lines: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=("list", "fetch", "show"), help="what to do")
    parser.add_argument("names", nargs="*", metavar="ATLAS", help="catalogue ids; fetch and show need at least one")


def run(*, action: str, names: list[str]) -> Listing:
    """List, fetch or show atlases.

    Raises
    ------
    AtlasError
        An id is unknown, cannot be fetched, or was altered.
    """
    if action == "list":
        return Listing(_table(list(CATALOGUE.values())))
    if not names:
        raise ConfigError(f"neuropipe atlas {action} needs the id of an atlas; known: {', '.join(CATALOGUE)}.")
    entries = [atlases.entry(name) for name in names]
    work = fetch if action == "fetch" else show
    return Listing([line for entry in entries for line in work(entry)])


def _files(entry: Entry) -> list[Remote]:
    return [entry.image] if entry.table is None else [entry.image, entry.table]


def _table(entries: list[Entry]) -> list[str]:
    head = ("id", "regions", "space", "here", "source", "licence")
    rows = [head]
    for entry in entries:
        here = "yes" if all(atlases.locate(remote) for remote in _files(entry)) else "no"
        rows.append((entry.id, str(entry.n_regions), entry.space, here, entry.image.source, entry.licence))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show(entry: Entry) -> list[str]:
    """Return what the catalogue knows of an atlas, and its networks where it is on this machine."""
    lines = [
        f"{entry.id}: {entry.title}",
        f"  space      {entry.space}",
        f"  regions    {entry.n_regions}",
        f"  licence    {entry.licence}",
        f"  citation   {entry.citation}",
    ]
    for remote in _files(entry):
        path = atlases.locate(remote)
        lines.append(f"  {'file' if path else 'missing':<10} {path or remote.file} ({remote.source}: {remote.url})")
        lines.append(f"  sha256     {remote.sha256 or 'not published; the first fetch is recorded and checked'}")
    if not all(atlases.locate(remote) for remote in _files(entry)):
        return [*lines, f"  fetch it   neuropipe atlas fetch {entry.id}"]
    atlas = atlases.load(entry.id)
    zooms = " x ".join(f"{size:.3g}" for size in (atlas.affine[:3, :3] ** 2).sum(axis=0) ** 0.5)
    shape = " x ".join(map(str, atlas.shape))
    networks = atlas.table["network"].value_counts(sort=False)
    counts = [f"{name} {n}" for name, n in networks.items() if name]
    lines += [f"  grid       {shape}, {zooms} mm", f"  networks   {', '.join(counts) or 'none named'}"]
    return [*lines, f"  names      {', '.join(atlas.table['name'].head(3))} ... {atlas.table['name'].iloc[-1]}"]


def fetch(entry: Entry) -> list[str]:
    """Bring the files of an atlas into the cache, unless they are on this machine; check them either way.

    A file whose checksum is not published is trusted the first time: what came is recorded beside it,
    and every later use is held to that.

    Raises
    ------
    AtlasError
        The download failed, or is not what was published.
    """
    lines = []
    for remote in _files(entry):
        if atlases.locate(remote) is None:
            target = atlases.cache_folder() / remote.file
            if remote.source == "nilearn":
                _fetch_by_nilearn(entry, remote)
            else:
                _download(entry, remote, target)
            write_text(atlases.record_of(target), f"{sha256(target)}  {target.name}\n")
        path, checksum = atlases.verified(remote, entry.id)
        lines.append(f"{entry.id}: {path} (sha256 {checksum})")
    return lines


def _download(entry: Entry, remote: Remote, target: Path) -> None:
    import pooch

    known = f"sha256:{remote.sha256}" if remote.sha256 else None
    try:
        with atomic(target) as temporary:
            pooch.retrieve(remote.url, known, fname=temporary.name, path=temporary.parent, progressbar=False)
    except ValueError as error:  # pooch: the checksum differs
        raise AtlasError(f"{remote.url} is not the published file of {entry.id}: {error}") from error
    except OSError as error:  # requests' errors are OSErrors
        raise AtlasError(
            f"The atlas {entry.id} could not be fetched from {remote.url} ({error}). Without a network, copy the file "
            f"from another machine to {target}."
        ) from error


def _fetch_by_nilearn(entry: Entry, remote: Remote) -> None:
    """Let nilearn fetch an atlas; keep its label image and names in the cache, in the catalogue's form."""
    import nibabel as nib
    from nilearn import datasets

    name, _, query = remote.url.partition("?")
    arguments: dict[str, Any] = dict(parse_qsl(query))
    folder = atlases.cache_folder() / "nilearn"
    try:
        found = getattr(datasets, name)(**arguments, data_dir=os.fspath(folder), verbose=0)
    except OSError as error:
        raise AtlasError(f"nilearn could not fetch {entry.id} ({error}); try again with a network.") from error
    target = atlases.cache_folder() / remote.file
    if target.suffix == ".tsv":
        labels = list(enumerate(found.labels))
        write_text(target, "index\tname\n" + "".join(f"{i}\t{label}\n" for i, label in labels))
        return
    image = found.maps if hasattr(found.maps, "dataobj") else nib.load(found.maps)
    with atomic(target) as temporary:  # uncompressed, so that the same image always has the same bytes
        nib.save(image, temporary)
