"""Score embeddings as the OpenBHB challenge does, beside chance and published numbers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neuropipe.errors import InputError
from neuropipe.provenance import describe, sha256, write_json

if TYPE_CHECKING:
    import pandas as pd

    from neuropipe.evaluate.challenge import Result

SITES = ("siteXacq", "site")  # names of the column, in the order in which they are looked for


@dataclass(frozen=True)
class Printed:
    """Lines to print."""

    lines: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe openbhb``."""
    parser.add_argument(
        "--embeddings", type=Path, required=True, help="folder that neuropipe embed wrote, of one model; or its parquet"
    )
    parser.add_argument(
        "--participants",
        type=Path,
        required=True,
        help="OpenBHB's participants.tsv: participant_id, age, siteXacq, split",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the solver saga; default 0")
    parser.add_argument("--output", type=Path, help="where the numbers go; default openbhb.json beside the embeddings")


def run(*, embeddings: Path, participants: Path, seed: int = 0, output: Path | None = None) -> Printed:
    """Write ``openbhb.json`` and return what is printed.

    Raises
    ------
    InputError
        The embeddings are not of one model, a column is missing, or a side of the challenge is empty.
    """
    from neuropipe.bids import participants as people
    from neuropipe.evaluate import challenge

    path = _table_path(embeddings)
    facts = _join(path, people.load(participants), participants)
    columns = [name for name in facts if name[0] == "e" and name[1:].isdigit()]
    known = (facts["age"].to_numpy(), facts["site"], facts["split"])
    reached = challenge.judge(facts[columns].to_numpy(float), *known, seed=seed)
    guessed = challenge.chance(*known)
    counts = facts["split"].value_counts()
    about = {
        "result": _numbers(reached),
        "chance": _numbers(guessed),
        "published": {name: _numbers(result) for name, result in challenge.PUBLISHED.items()},
        "people": {name: int(counts.get(name, 0)) for name in challenge.SIDES},
        "n_features": len(columns),
        "n_sites": int(facts.loc[facts["split"] == "train", "site"].nunique()),
    }
    inputs = {path.name: sha256(path), participants.name: sha256(participants)}
    sidecar = describe("openbhb", inputs=inputs, settings={"seed": seed}, packages=("numpy", "scikit-learn"))
    output = output or path.with_name("openbhb.json")
    write_json(output, about | sidecar)
    rows = {"these embeddings": reached, "chance": guessed, **challenge.PUBLISHED}
    return Printed([*_lines(rows), f"{_people(about)} Written to {output}."])


def _table_path(embeddings: Path) -> Path:
    """Return the one table of embeddings that a folder (or file) means."""
    if embeddings.is_file():
        return embeddings
    found = sorted(embeddings.glob("**/trained.parquet"))
    if len(found) != 1:
        named = ", ".join(str(path.relative_to(embeddings)) for path in found[:5]) or "none"
        raise InputError(
            f"Expected one trained.parquet in {embeddings}, as neuropipe embed writes it, found {named}; name the "
            "folder of one model."
        )
    return found[0]


def _join(path: Path, known: pd.DataFrame, participants: Path) -> pd.DataFrame:
    """Return the embeddings of everyone on a side of the challenge, with columns age, site and split."""
    import pandas as pd

    from neuropipe.evaluate.challenge import SIDES
    from neuropipe.shards.manifest import read_parquet

    table = read_parquet(path)
    if "participant_id" not in table or table["participant_id"].duplicated().any():
        raise InputError(f"{path} needs one row per person with a participant_id; embed OpenBHB alone.")
    site = next((name for name in SITES if name in known), SITES[0])
    if missing := [name for name in ("age", site, "split") if name not in known]:
        raise InputError(f"{participants} lacks the columns {', '.join(missing)}; found {', '.join(known)}.")
    known = known.set_index("participant_id")
    if unknown := sorted(set(table["participant_id"]) - set(known.index)):
        raise InputError(
            f"{participants} has no row for {len(unknown)} people with embeddings: {', '.join(unknown[:5])}."
        )
    rows = known.loc[table["participant_id"]].reset_index(drop=True)
    facts = {"age": pd.to_numeric(rows["age"], errors="coerce"), "site": rows[site], "split": rows["split"]}
    table = table.reset_index(drop=True).assign(**facts)
    return table[table["split"].isin(SIDES)].sort_values("participant_id", ignore_index=True)


def _numbers(result: Result) -> dict[str, float]:
    names = ("mae_internal", "mae_external", "site_accuracy", "score")
    return {name: float(getattr(result, name)) for name in names}


def _lines(rows: dict[str, Result]) -> list[str]:
    lines = [f"{'':24}{'MAE int (y)':>12}{'MAE ext (y)':>12}{'site BAcc':>12}{'score':>8}"]
    for name, found in rows.items():
        accuracy = f"{100 * found.site_accuracy:.1f} %"
        lines.append(f"{name:24}{found.mae_internal:12.2f}{found.mae_external:12.2f}{accuracy:>12}{found.score:8.2f}")
    return lines


def _people(about: dict) -> str:
    people = ", ".join(f"{n} {name}" for name, n in about["people"].items())
    return f"{people}; {about['n_sites']} sites, {about['n_features']} features. Lower is better throughout."
