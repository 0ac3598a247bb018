"""The page: its numbers are those of the tables, it loads nothing, it copes with what is missing or hostile."""

from __future__ import annotations

import math
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import beside_tables
import pandas as pd
import pytest
import yaml
from parsed_page import Page
from reported_study import write_study

from neuropipe import config as configuration
from neuropipe.errors import InputError
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.provenance import read_json, write_json
from neuropipe.report import page, read

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SCHEMES = ["holdout", "leave_one_site_out"]
UNTRAINED = "semantoks-demo (random weights)"


def render(config: Path) -> page.Rendered:
    """Return the report of the study beside `config`."""
    return page.render(read.read(configuration.load(config), config.parent), NOW, str(config))


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whole study per scheme of splitting."""
    root = tmp_path_factory.mktemp("studies")
    return {scheme: write_study(root / scheme / "synthetic", scheme) for scheme in SCHEMES}


@pytest.fixture(scope="module", params=SCHEMES)
def study(request: pytest.FixtureRequest, studies: dict[str, Path]) -> Path:
    """A whole study, only read by the tests that use it."""
    return studies[request.param]


@pytest.fixture(scope="module")
def rendered(study: Path) -> page.Rendered:
    """Its report."""
    return render(study)


@pytest.fixture(scope="module")
def shown(rendered: page.Rendered) -> Page:
    """Its page."""
    return Page(rendered.page)


@pytest.fixture
def own(tmp_path: Path, studies: dict[str, Path]) -> Path:
    """A whole study that a test may spoil."""
    shutil.copytree(studies["holdout"].parent, tmp_path / "synthetic")
    return tmp_path / "synthetic" / "config.yaml"


def test_every_number_of_the_leaderboards_is_that_of_the_table(study: Path, shown: Page) -> None:
    metrics = pd.read_parquet(study.parent / "metrics.parquet")
    primary = metrics[(metrics["fold"] == "mean") & metrics["metric"].isin(["auroc", "mae"])]
    primary = primary[~primary["reference"].isin([UNTRAINED, "majority"])]  # those comparisons are in the summary
    assert set(shown.cells) == set(primary["run_id"])
    assert len(primary) == 10
    for row in primary.to_dict("records"):
        cells = shown.cells[row["run_id"]]
        full = {float(value) for value, _ in cells if value}
        expected = ["value", "ci_low", "p_perm", "null_mean", "delta", "delta_ci_low"]
        assert {float(row[name]) for name in expected if pd.notna(row[name])} <= full
        decimals = 3 if row["metric"] == "auroc" else 2
        assert cells[0] == (str(row["value"]), f"{row['value']:.{decimals}f}")
        assert cells[1][1] == f"{row['ci_low']:.{decimals}f} to {row['ci_high']:.{decimals}f}"


def test_the_summary_says_what_the_tables_say(study: Path, shown: Page) -> None:
    metrics = pd.read_parquet(study.parent / "metrics.parquet")
    row = metrics[
        (metrics["fold"] == "mean") & (metrics["metric"] == "auroc") & (metrics["system"] == "semantoks-demo")
    ]
    value, delta = row["value"].iloc[0], row["delta"].iloc[0]
    sign = "+" if delta > 0 else "−"
    assert f"AUROC {value:.3f} against {value - delta:.3f}; difference {sign}{abs(delta):.3f}" in shown.text


def test_the_untrained_network_is_in_the_summary_and_every_mark_is_drawn_once(
    study: Path, rendered: page.Rendered, shown: Page
) -> None:
    metrics = pd.read_parquet(study.parent / "metrics.parquet")
    compared = metrics[(metrics["reference"] == UNTRAINED) & (metrics["metric"] == "auroc")]
    row = compared[compared["fold"] == "mean"].iloc[0]
    delta, low, high = (f"{row[name]:+.3f}".replace("-", "−") for name in ("delta", "delta_ci_low", "delta_ci_high"))
    assert f"with random weights; difference {delta} (95 % interval {low} to {high})" in shown.text
    assert rendered.page.count('<tr data-run="diagnosis_semantoks-demo_logistic_seed-0"') == 1
    for fold in compared[~compared["fold"].isin(["mean", "pooled"])].itertuples():
        assert rendered.page.count(f"<title>{fold.fold}, semantoks-demo: {fold.value:.3f}</title>") == 1


def test_links_stay_inside_the_page_or_lead_to_a_card(rendered: page.Rendered, shown: Page) -> None:
    inside = [link for link in shown.links if link.startswith("#")]
    assert len(inside) > 10
    assert {link.removeprefix("#") for link in inside} <= set(shown.ids)
    outside = {link for link in shown.links if not link.startswith("#")}
    assert outside == {"models/semantoks-demo.md", "methods.md", "references.bib"}
    assert set(rendered.cards) == {"semantoks-demo"}
    assert len(shown.ids) == len(set(shown.ids))


def without_plotly(content: str) -> str:
    """Return a page without Plotly's bundle, which names addresses of namespaces and of its makers."""
    bundle = page.PLOTLY.read_text(encoding="utf-8")
    assert content.count(bundle) == 1
    return content.replace(bundle, "")


def test_nothing_is_loaded_from_anywhere(rendered: page.Rendered, shown: Page) -> None:
    content = without_plotly(rendered.page)
    assert shown.loaded == ["data:,"]
    assert "http://" not in content
    assert "https://" not in content
    assert "@import" not in content
    assert not re.search(r"url\(", content)
    assert "default-src 'none'" in content


def test_every_figure_has_words_for_those_who_cannot_see_it(shown: Page) -> None:
    assert shown.unlabelled == []


def test_the_page_is_small(rendered: page.Rendered) -> None:
    assert len(without_plotly(rendered.page).encode()) < 300_000


def test_sections_tell_who_was_left_out_training_motion_and_commands(study: Path, shown: Page) -> None:
    for words in (
        "61 recordings of 61 people",
        "−1 no confounds",
        "−1 too much motion",
        "mean FD 0.71 mm, limit 0.5 mm",
        "Median rate",
        "diagnosis, among training people",
        "age, among training people",
        "Motion by site",
        "Coverage of regions by network",
        f"snakemake --cores all --configfile {study}",
        "no person and no kin on two sides",
    ):
        assert words in shown.text, words


def test_what_was_known_at_moments_of_the_training_is_drawn_beside_the_loss(rendered: page.Rendered) -> None:
    said = "AUROC of a linear readout among training people: 0.575, at the end 0.800."
    drawing = rendered.page[: rendered.page.index(said)].rsplit("<svg", 1)[1]
    whole = drawing + rendered.page[rendered.page.index(said) :].split("</svg>")[0]
    n_models = whole.count('class="curve s-model')
    assert n_models in (1, 3) and whole.count("<circle") == 3 * n_models
    assert whole.count("<title>A constant</title>") == 1


def test_a_clean_study_has_no_banner(own: Path) -> None:
    metrics = pd.read_parquet(own.parent / "metrics.parquet")
    ahead = metrics["system"].eq("semantoks-demo") & metrics["metric"].isin(["auroc", "mae"])
    metrics.loc[ahead, "delta"] = metrics.loc[ahead, "metric"].map({"auroc": 0.1, "mae": -1.0})
    tables.write(own.parent / "metrics.parquet", metrics, tables.METRICS)
    assert 'class="banner"' not in render(own).page


def _fail_split(study: Study) -> str:
    audit = read_json(study.split("main") / "audit.json")
    audit["checks"][0] |= {"passed": False, "detail": "sub-003 is on both"}
    write_json(study.split("main") / "audit.json", audit)
    return "sub-003 is on both"


def _fail_shuffles(study: Study) -> str:
    leak = {
        "check": "shuffled labels score at chance",
        "where": "diagnosis_fc_logistic",
        "value": 0.61,
        "passed": False,
    }
    write_json(study.root / "leakage.json", {"checks": [leak]})
    return "found 0.610"


def _train_on_test(study: Study) -> str:
    split = pd.read_parquet(study.split("main") / "splits.parquet")
    folder = study.model("semantoks-demo", 0) / "main" / "0"
    split[["dataset", "participant_id"]].to_parquet(folder / "people.parquet")
    return "24 test people were seen"


def _train_on_kin(study: Study) -> str:
    path = study.split("main") / "splits.parquet"
    split = pd.read_parquet(path)
    kin = split.groupby("role").head(1).index  # one training and one test person become family
    split.loc[kin, "person"] = "family-1"
    split.to_parquet(path)
    return "1 test people were seen"


@pytest.mark.parametrize("spoil", [_fail_split, _fail_shuffles, _train_on_test, _train_on_kin])
def test_a_planted_leak_is_a_banner_at_the_top(own: Path, spoil) -> None:
    words = spoil(Study(own.parent))
    content = render(own).page
    banners = content[content.index('class="banners"') : content.index('class="verdicts"')]
    assert words in banners


def test_pretraining_on_everyone_is_a_banner(own: Path) -> None:
    content = yaml.safe_load(own.read_text())
    content["pretrain"]["semantoks-demo"]["people"] = "everyone"
    own.write_text(yaml.safe_dump(content))
    assert "has seen the test people" in render(own).page


def test_every_number_that_pretraining_touched_is_marked(own: Path) -> None:
    path = own.parent / "metrics.parquet"
    metrics = tables.read([path], tables.METRICS, "metrics")
    metrics.loc[metrics["system"] == "semantoks-demo", "pretrain_overlap_n"] = 7
    tables.write(path, metrics, tables.METRICS)
    content = render(own).page
    assert content.count('<span class="bad">saw 7 test people</span>') == 2
    assert content.count('<span class="fname bad">semantoks-demo, saw test people</span>') == 2
    assert content.count("Pretraining saw 7 test people: this says nothing about new people.") == 2
    assert content.count('class="verdict bad"') == 2


def test_what_the_audit_does_not_measure_is_called_not_known_until_it_is_measured(own: Path) -> None:
    assert "2 not known" in Page(render(own).page).text
    path = own.parent / "leakage.json"
    site = {"check": "site decodability no higher than connectivity's", "where": "diagnosis", "passed": True}
    write_json(path, {"checks": [*read_json(path)["checks"], site]})
    text = Page(render(own).page).text
    assert "1 not known" in text
    assert "Site decodability no higher than connectivity's: diagnosis" in text


OPTIONAL = [
    "predictions.parquet",
    "nulls.parquet",
    "costs.parquet",
    "leakage.json",
    "splits/main/audit.json",
    "splits/main/splits.parquet",
    "qc/demo/runs.parquet",
    "qc/demo/regions.parquet",
    "efficiency.parquet",
    "breakdown.parquet",
    "net_benefit.parquet",
    "places.parquet",
]


@pytest.mark.parametrize("missing", OPTIONAL)
def test_a_missing_table_is_a_sentence(own: Path, missing: str) -> None:
    beside_tables.write(own.parent)
    (own.parent / missing).unlink()
    text = Page(render(own).page).text
    assert f"{missing} is not there" in text or f"{Path(missing).name} is not there" in text


def test_with_the_metrics_alone_there_is_still_a_leaderboard(tmp_path: Path, own: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "metrics.parquet"):
        (bare / name).write_bytes((own.parent / name).read_bytes())
    shown = Page(render(bare / "config.yaml").page)
    assert len(shown.cells) == 10
    assert "No model was trained in this study" in shown.text
    assert "Nothing was left out" in shown.text


def test_without_metrics_the_error_says_what_to_run(own: Path) -> None:
    (own.parent / "metrics.parquet").unlink()
    with pytest.raises(InputError, match="neuropipe evaluate"):
        render(own)


def test_a_damaged_table_is_named(own: Path) -> None:
    (own.parent / "nulls.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"nulls\.parquet"):
        render(own)


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_hostile_names_are_shown_as_text(own: Path) -> None:
    study = Study(own.parent)
    for name, columns in (("predictions", tables.PREDICTIONS), ("metrics", tables.METRICS)):
        path = study.root / f"{name}.parquet"
        table = tables.read([path], columns, name)
        table["system"] = table["system"].replace("semantoks-demo", HOSTILE)
        table["run_id"] = table["run_id"].str.replace("semantoks-demo_", f"{HOSTILE}_", regex=False)
        tables.write(path, table, columns)
    runs = pd.read_csv(study.participants("demo"), sep="\t")
    runs.assign(site=HOSTILE).to_csv(study.participants("demo"), sep="\t", index=False)
    regions = pd.read_parquet(study.qc("demo") / "regions.parquet")
    regions.assign(network=HOSTILE, name=HOSTILE).to_parquet(study.qc("demo") / "regions.parquet")
    row = dict.fromkeys(("stage", "dataset", "participant_id", "run_id", "path", "reason", "detail"), HOSTILE)
    write_json(study.receipt("shard", "demo", 0), {"excluded": [row], "products": []})
    content = render(own).page
    assert content.count("<script>") == 2  # Plotly, and the page's own
    assert "<img" not in without_plotly(content)
    assert HOSTILE in Page(content).text


def test_a_hostile_name_does_not_break_a_card(own: Path) -> None:
    folder = Study(own.parent).model("semantoks-demo", 0) / "main" / "0"
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"family": "a | b <script>"})
    card = render(own).cards["semantoks-demo"]
    assert "| Family | a \\| b &lt;script> |" in card


def test_a_card_has_the_hash_the_people_and_the_result(own: Path) -> None:
    card = render(own).cards["semantoks-demo"]
    metrics = pd.read_parquet(own.parent / "metrics.parquet")
    row = metrics[(metrics["fold"] == "mean") & (metrics["metric"] == "mae") & (metrics["system"] == "semantoks-demo")]
    assert "| main/0 | 0 | 36 | 36 | 600 | `00000000` |" in card
    assert f"| age | ridge | Mean absolute error | {row['value'].iloc[0]:.2f} |" in card
    assert "learned from nobody whom it is tested on" in card


def test_series_without_motion_or_coverage_say_so(own: Path) -> None:
    study = Study(own.parent)
    for name, column in (("runs", "mean_fd_mm"), ("regions", "mean_coverage")):
        path = study.qc("demo") / f"{name}.parquet"
        pd.read_parquet(path).assign(**{column: math.nan}).to_parquet(path)
    text = Page(render(own).page).text
    assert "motion cannot be shown" in text
    assert "coverage cannot be shown" in text
