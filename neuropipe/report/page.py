"""The one HTML page of a study: everything inline, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from neuropipe import __version__
from neuropipe.report import audit, cards, drivers, excluded, lineage, methods, tables, task, views, words
from neuropipe.report.audit import Check
from neuropipe.report.methods import Methods
from neuropipe.report.read import Results
from neuropipe.report.tables import NAMES
from neuropipe.splits.people import individuals

TEMPLATES = Path(__file__).parent / "templates"
PLOTLY = Path(__file__).parent / "vendor" / "plotly-basic.min.js"  # MIT, see the licence beside it
MAX_CARDS = 6  # tasks that the summary tells at length; of more, each has one line there
SECTIONS = [
    ("top", "Summary"),
    ("asked", "Asked"),
    ("people", "Left out"),
    ("results", "Results"),
    ("drivers", "Drivers"),
    ("training", "Training"),
    ("quality", "Motion"),
    ("audit", "Audit"),
    ("methods", "Methods"),
    ("reproduce", "Reproduce"),
]


@dataclass(frozen=True)
class Rendered:
    """A report: the page, the model cards by recipe, and the methods of a paper."""

    page: str
    cards: dict[str, str]
    methods: Methods


def render(results: Results, made_at: datetime, config_path: str) -> Rendered:
    """Return the page of a study and the cards of its models.

    Parameters
    ----------
    results : Results
        From `read.read`.
    made_at : datetime
        When the report is made (UTC).
    config_path : str
        As it is typed to make the study again.
    """
    boards = [board for name in results.config.tasks if (board := tables.board(results, name)) is not None]
    checks = audit.checklist(results, boards)
    made, versions = lineage.stages(results.study)
    digests = lineage.hashes(results.study)
    recipes = sorted({one.recipe for one in results.trainings})
    said = methods.write(results)
    predictions = {} if results.predictions is None else dict(iter(results.predictions.groupby("task")))
    views_of_tasks = [
        task.task_view(
            board,
            predictions.get(board.name),
            results.rollouts.get(board.name, ()),
            results.clips,
            results.beside,
            tables.external(results, board.name),
        )
        for board in boards
    ]
    blocks = views.training(results)
    content = (
        environment()
        .get_template("page.html.j2")
        .render(
            study=results.config.study,
            date=f"{made_at:%d %B %Y}".lstrip("0"),
            version=__version__,
            seed=results.config.seed,
            sections=_sections(results),
            **_inline(interactive=_has_plots(views_of_tasks, blocks)),
            banners=audit.banners(results, boards, checks),
            tasks=views_of_tasks,
            max_cards=MAX_CARDS,
            tiles=_tiles(results, boards),
            asked=views.asked(results, {b.name for b in boards}, {name: f"models/{name}.md" for name in recipes}),
            flows={name: excluded.flow(results.study, name, results.excluded) for name in results.config.datasets},
            ends=[e for b in boards if (e := excluded.end(results.study, b.name, results.metrics)) is not None],
            excluded=views.excluded(results, f"{results.study.root.name}/excluded.tsv"),
            training=blocks,
            costs=views.costs(results, boards),
            quality=views.motion_and_coverage(results),
            drivers=drivers.view(results, boards),
            methods=said,
            audited=audit.grouped(checks),
            audit_sentence=_audit_sentence(checks),
            tables=[(n, f"../{n}") for n in ("metrics.csv", "excluded.tsv") if (results.study.root / n).is_file()],
            commands=_commands(results, config_path),
            made=made,
            versions=versions,
            hashes=digests,
            configuration=yaml.safe_dump(results.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
            missing=results.missing,
        )
    )
    return Rendered(content, {name: cards.render(results, boards, checks, name, made_at) for name in recipes}, said)


def _has_plots(views_of_tasks: list[task.TaskView], blocks: list[dict[str, Any]]) -> bool:
    figures = [figure for view in views_of_tasks for figure in view.figures]
    figures += [figure for block in blocks for figure in (*block["figures"], *block["parts"])]
    return any(figure.plot is not None for figure in figures)


def _inline(interactive: bool) -> dict[str, Any]:
    """Return styles and scripts with the hashes that allow them; Plotly only where a figure can be explored."""
    style, script = asset("style.css"), asset("page.js")
    library = {"style": asset("plotly.css"), "script": PLOTLY.read_text(encoding="utf-8")} if interactive else {}
    script += asset("explore.js") if interactive else ""
    return {
        "style": Markup(style),
        "script": Markup(script),
        "library": {name: Markup(text) for name, text in library.items()},
        "style_hashes": _hashes(style, library.get("style")),
        "script_hashes": _hashes(script, library.get("script")),
    }


def _hashes(*contents: str | None) -> Markup:
    return Markup(" ").join(Markup("'{}'").format(csp(content)) for content in contents if content)


def _sections(results: Results) -> list[tuple[str, str]]:
    """Return the sections with their names in the navigation."""
    motion = "Motion" if views.has_series(results) else "Quality"
    return [(link, motion if link == "quality" else name) for link, name in SECTIONS]


@cache
def environment() -> Environment:
    """Return the templates' environment: everything is escaped unless it is our own markup."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": words.amount,
        "interval": words.interval,
        "probability": words.probability,
        "count": lambda n: f"{n:.0f}" if math.isfinite(n) else "–",
        "signed": lambda value: f"{value:+.2g}".replace("-", "\N{MINUS SIGN}"),
        "method": task.method,
        "metric_name": lambda name: NAMES.get(name, name.replace("_", " ")),
    }
    environment.globals["nan"] = math.nan
    environment.tests["nan"] = lambda value: isinstance(value, float) and math.isnan(value)
    return environment


def asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def csp(content: str) -> str:
    """Return the hash by which the page's own policy allows an inline style or script, and no other."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _tiles(results: Results, boards: list[tables.Board]) -> list[tuple[str, str]]:
    """Return the counts of the header."""
    tiles = [("datasets", str(len(results.config.datasets)))]
    if results.runs is not None:
        people = individuals(results.runs, results.config.same_people())
        tiles += [("people", str(people.nunique())), ("recordings", str(len(results.runs)))]
    left_out = results.excluded.drop_duplicates(["dataset", "participant_id", "run_id", "path"])
    tiles.append(("left out", str(len(left_out))))
    systems = {entry.system.name for board in boards for entry in board.entries}
    return [*tiles, ("tasks", str(len(boards))), ("systems", str(len(systems)))]


def _audit_sentence(checks: list[Check]) -> str:
    count = {state: sum(check.state == state for check in checks) for state in ("passed", "failed", "unknown")}
    return f"{count['passed']} of {len(checks)} checks passed, {count['failed']} failed, {count['unknown']} not known."


def _commands(results: Results, config_path: str) -> list[str]:
    """Return what to type to make the study again."""
    study = str(results.study.root)
    return [
        f"snakemake --cores all --configfile {shlex.quote(config_path)}",
        "# only this page:",
        f"neuropipe report --config {shlex.quote(config_path)} --study {shlex.quote(study)} "
        f"--output {shlex.quote(str(results.study.report))}",
    ]
