"""Ask trained networks about new scans: a table, and a page for every person. For research, not for diagnosis."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuropipe.errors import InputError, RunExcluded
from neuropipe.locks import lock
from neuropipe.paths import write_text
from neuropipe.provenance import describe, fingerprint, write_json
from neuropipe.stages.predict_files import LeftOut, Person, group

if TYPE_CHECKING:
    from neuropipe.evaluate.consensus import Opinion
    from neuropipe.report.person_page import Answer, Picture
    from neuropipe.stages.predict_networks import Asked
    from neuropipe.stages.predict_scans import Scan

log = logging.getLogger("neuropipe")

FWHM_MM = 8.0  # of the Gaussian that smooths a map of gradients
SIGMA_VOXELS = 2.0  # where the size of a voxel is not known
FWHM_PER_SIGMA = 2.3548
COLUMNS = [
    "participant_id", "files", "target", "positive", "probability_raw", "probability_calibrated", "predicted", "unit",
    "uncertainty", "entropy", "mutual_information", "distance", "out_of_distribution", "label", "threshold", "notes",
]  # fmt: skip
ROLLOUT = (
    "Attention rollout",
    "How much of each patch reaches the class token through the attention of all layers (mean over heads and networks, "
    "scaled in each slice). It does not follow what the head reads from the patches themselves, and it shows where the "
    "network looks, not where something is wrong.",
)
GRADIENT = (
    "Input times gradient",
    "The mean over the networks of |gradient × input|, smoothed: where a small relative change of the scan would "
    "change the output most. It shows what the network reacts to, not where something is wrong.",
)


@dataclass(frozen=True)
class Done:
    """What the command line says in the end."""

    lines: list[str]
    exit_code: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe predict``."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="DIR",
        help="folder of a fine-tuned network, or one above several that are averaged; or a released checkpoint file, "
        "or hf:owner/name; may be given several times",
    )
    parser.add_argument("--family", help="family of a released checkpoint, where its keys do not tell")
    parser.add_argument("--output", type=Path, required=True, help="folder for predictions.tsv and the pages")
    parser.add_argument("--persons", type=Path, help="table (tsv) of path and participant_id that groups files")
    parser.add_argument("--passes", type=int, help="passes with dropout of each network; default: as it was trained")
    parser.add_argument("--seed", type=int, default=0, help="of the passes (default 0)")
    parser.add_argument("--no-overlay", action="store_true", help="pages without a map of what the network reacts to")
    parser.add_argument("--threads", type=int, help="processor threads; default: torch's own choice")
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="NIfTI maps, or pictures of slices")


def run(
    *,
    model: list[str],
    family: str | None,
    output: Path,
    persons: Path | None,
    passes: int | None,
    seed: int,
    no_overlay: bool,
    threads: int | None,
    files: list[Path],
) -> Done:
    """Predict everyone who can be predicted, and say who cannot.

    Raises
    ------
    NeuropipeError
        There is nothing to predict, or no network to ask.
    """
    from neuropipe.stages import predict_networks
    from neuropipe.train import devices

    if passes is not None and passes < 0:
        raise InputError(f"--passes: expected 0 or more, found {passes}.")
    people, left_out = group(files, persons)
    with devices.claim(threads) as device:
        asked = predict_networks.load(model, family, device)
        with lock(output / ".lock"):
            return _predict(people, left_out, asked, output, passes, seed, not no_overlay, device)


def _predict(
    people: Sequence[Person],
    left_out: list[LeftOut],
    asked: Asked,
    output: Path,
    passes: int | None,
    seed: int,
    overlay: bool,
    device,
) -> Done:
    """Write a page for each person, and the tables."""
    from neuropipe.report import person_page
    from neuropipe.stages import predict_scans

    now, rows, listed, inputs = datetime.now(UTC), [], [], {}
    for person in people:
        scans, unusable = predict_scans.read(person, asked.about, device)
        left_out += unusable
        used = [path for path in person.files if str(path) not in {row.path for row in unusable}]
        if not scans:
            continue
        try:
            answer, picture = speak(asked, scans, passes, seed, overlay)
        except (RunExcluded, InputError) as error:
            reason = error.reason if isinstance(error, RunExcluded) else "not readable by the network"
            left_out += [LeftOut(str(path), person.participant_id, reason, str(error)) for path in used]
            continue
        notes = [note for scan in scans for note in scan.notes]
        page = page_name(person.participant_id, {row.page for row in listed})
        shown = person_page.Person(
            person.participant_id, [str(path) for path in used], answer, picture, notes, asked.facts, asked.warnings
        )
        write_text(output / page, person_page.render(shown, now))
        rows.append(row_of(person.participant_id, used, answer, notes))
        listed.append(person_page.Listed(person.participant_id, page, answer))
        inputs |= {str(path): fingerprint(path) for path in used}
        log.info("predict: %s, %s", person.participant_id, person_page.headline(answer))
    write_tables(output, rows, left_out)
    write_text(output / "index.html", person_page.render_index(listed, [row._asdict() for row in left_out], now))
    settings = {"networks": asked.sources, "passes": passes, "seed": seed, "overlay": overlay, "about": asked.about}
    facts = {"n_people": len(rows), "n_left_out": len(left_out), "device": str(device)}
    sidecar = describe("predict", inputs=inputs, settings=settings, packages=("torch", "numpy", "nibabel"), **facts)
    write_json(output / "predictions.json", sidecar)
    for row in left_out:
        log.error("left out: %s: %s: %s", row.path, row.reason, row.detail)
    return Done([f"{len(rows)} predicted, {len(left_out)} left out: {output / 'index.html'}"], 2 if left_out else 0)


# ------------------------------------------------------------------ one person


def speak(
    asked: Asked, scans: Sequence[Scan], passes: int | None, seed: int, overlay: bool = True
) -> tuple[Answer, Picture]:
    """Return what networks say of one person's scans, and what there is to look at."""
    from neuropipe.evaluate import consensus

    opinion = consensus.ask(asked.networks, [scan.batch for scan in scans], passes, seed)
    return answer_of(opinion, asked, passes), picture_of(asked, scans, overlay)


def answer_of(opinion: Opinion, asked: Asked, passes: int | None) -> Answer:
    """Return an opinion with the words of its task."""
    from neuropipe.report.person_page import Answer

    task, scaling = asked.about["task"], asked.about["scaling"]
    is_binary = task["kind"] == "binary"
    threshold, source = asked.threshold if is_binary else (float("nan"), "")
    decisive = opinion.calibrated if np.isfinite(opinion.calibrated) else opinion.raw
    words = (str(task["positive"]), f"not {task['positive']}")
    return Answer(
        target=task["target"],
        kind=task["kind"],
        positive=words[0] if is_binary else "",
        unit="" if is_binary else asked.unit,
        **{name: value for name, value in asdict(opinion).items() if name != "is_far"},
        n_passes=asked.about["n_passes"] if passes is None else passes,
        n_networks=len(asked.networks),
        limit=1.0 if opinion.is_far is not None else float("nan"),
        unfamiliar=opinion.is_far,
        threshold=threshold,
        threshold_source=source,
        label=words[0 if decisive >= threshold else 1] if is_binary else "",
        scale=None if is_binary or scaling is None else (scaling["mean"], scaling["sd"]),
    )


def picture_of(asked: Asked, scans: Sequence[Scan], overlay: bool) -> Picture:
    """Return the slices of all scans, or the first map, with what the networks react to."""
    from neuropipe.evaluate import consensus
    from neuropipe.report.person_page import Picture

    is_volume = asked.about["content"] == "volume"
    shown = scans[:1] if is_volume else scans
    base, first = np.concatenate([scan.shown for scan in shown]), shown[0]
    positions = [[name for scan in shown for name in scan.positions[0]], *first.positions[1:]]
    size = first.size if is_volume else base.shape
    found, title = None, ("", "")
    if overlay and all(hasattr(one.network, "rollout") for one in asked.networks):
        title, maps = ROLLOUT, [consensus.rollout(asked.networks, scan.batch) for scan in shown]
        found = np.concatenate(maps)
        patch = asked.about["model"]["patch_size"]  # pixels that do not fill a patch are not seen, nor shown
        base = base[:, : found.shape[1] * patch[0], : found.shape[2] * patch[1]]
        positions[1:] = [[""] * n for n in base.shape[1:]]
        size = base.shape
    elif overlay:
        title = GRADIENT
        edges = np.divide(first.size, first.shown.shape)[-base.ndim :] if is_volume else None
        sigma = SIGMA_VOXELS if edges is None or asked.about["grid"] is None else FWHM_MM / FWHM_PER_SIGMA / edges
        maps = [consensus.input_gradient(asked.networks, scan.batch, sigma) for scan in shown]
        found = maps[0][0] if is_volume else np.concatenate(maps)
    return Picture(base, found, "volume" if is_volume else "slices", positions, tuple(size), *title)


# ------------------------------------------------------------------ files


def page_name(participant_id: str, taken: set[str]) -> str:
    """Return the file name of a person's page, which no other person has."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", participant_id)
    stem = safe if safe.startswith("sub-") else f"sub-{safe}"
    name, n = f"{stem}.html", 2
    while name in taken:
        name, n = f"{stem}-{n}.html", n + 1
    return name


def row_of(participant_id: str, files: Sequence[Path], answer: Answer, notes: Sequence[str]) -> dict[str, Any]:
    """Return a row of predictions.tsv."""
    return {
        "participant_id": participant_id,
        "files": ";".join(map(str, files)),
        "target": answer.target,
        "positive": answer.positive,
        "probability_raw": answer.raw,
        "probability_calibrated": answer.calibrated,
        "predicted": answer.value,
        "unit": answer.unit,
        "uncertainty": answer.uncertainty,
        "entropy": answer.entropy,
        "mutual_information": answer.mutual_information,
        "distance": answer.distance,
        "out_of_distribution": None if answer.unfamiliar is None else str(answer.unfamiliar).lower(),
        "label": answer.label,
        "threshold": answer.threshold,
        "notes": " ".join(notes),
    }


def write_tables(output: Path, rows: Sequence[dict[str, Any]], left_out: Sequence[LeftOut]) -> None:
    """Write predictions.tsv and excluded.tsv; what is missing is n/a, numbers keep all their digits."""
    import pandas as pd

    for name, table in (
        ("predictions.tsv", pd.DataFrame(rows, columns=COLUMNS)),
        ("excluded.tsv", pd.DataFrame(left_out, columns=LeftOut._fields)),
    ):
        cells = table.replace(r"\s+", " ", regex=True).replace("", "n/a")
        write_text(output / name, cells.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))
