"""The methods follow the study: what was used is said and cited, what was not is neither."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from reported_study import write_study

from neuropipe import config as configuration
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.provenance import read_json, write_json
from neuropipe.report import methods, read, references


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole study per scheme of splitting."""
    root = tmp_path_factory.mktemp("methods")
    for scheme in ("holdout", "leave_one_site_out"):
        write_study(root / scheme / "synthetic", scheme)
    return root


def write(config: Path, **changes: object) -> methods.Methods:
    """Return the methods of a study whose configuration is changed."""
    content = yaml.safe_load(config.read_text()) | changes
    return methods.write(read.read(configuration.parse(content), config.parent))


def everything(found: methods.Methods) -> str:
    return " ".join(text for _, paragraphs in found.spoken for text in paragraphs)


IMAGED = {"demo": {"kind": "fmriprep", "path": "nowhere"}}


def imaged(folder: Path, **clean: object) -> methods.Methods:
    """Return the methods of a study of fMRIPrep's images, cleaned as asked."""
    return write(folder / "holdout" / "synthetic" / "config.yaml", datasets=IMAGED, atlases=["tian-s3"], clean=clean)


def test_counts_and_reasons_are_those_of_the_receipts(folder: Path) -> None:
    text = everything(write(folder / "holdout" / "synthetic" / "config.yaml"))
    assert "Of 61 recordings of 61 people, 60 recordings of 60 people were analysed" in text
    assert "no confounds (1) and too much motion (1)" in text
    people = pd.read_csv(Study(folder / "holdout" / "synthetic").participants("demo"), sep="\t")
    counts = people["sex"].value_counts()
    assert f"sex F {counts['F']} and M {counts['M']}" in text
    assert f"mean {people['age'].mean():.1f} (SD {people['age'].std():.1f}); 3 sites" in text


def test_ready_made_series_were_not_regressed_and_cite_no_preprocessing(folder: Path) -> None:
    found = write(folder / "holdout" / "synthetic" / "config.yaml")
    assert not {"esteban2019", "friston1996", "satterthwaite2013", "power2012"} & set(found.keys)
    assert "regressed" not in everything(found)


@pytest.mark.parametrize(
    ("strategy", "cited", "others"),
    [
        ("24P", {"friston1996", "satterthwaite2013"}, {"behzadi2007", "pruim2015"}),
        ("36P+spikes", {"satterthwaite2013", "power2014", "power2012"}, {"friston1996", "behzadi2007"}),
        ("acompcor50", {"behzadi2007", "muschelli2014"}, {"pruim2015", "friston1996"}),
        ("icaaroma", {"pruim2015"}, {"behzadi2007", "friston1996"}),
        ("none", set(), {"friston1996", "satterthwaite2013", "behzadi2007", "pruim2015"}),
    ],
)
def test_the_strategy_that_was_used_is_cited_and_no_other(folder: Path, strategy, cited, others) -> None:
    keys = set(imaged(folder, strategy=strategy).keys)
    assert cited | {"esteban2019"} <= keys
    assert not others & keys


def test_the_sentences_follow_the_cleaning(folder: Path) -> None:
    joint = everything(imaged(folder))
    assert "band-pass filtered (0.01 to 0.1 Hz) by the confounds and the filter in one joint least squares fit" in joint
    assert "resampled to a repetition time of 2 s and z-scored" in joint
    changed = imaged(folder, filter="butterworth", low_pass=None, t_r=None, standardize="psc", global_signal=True)
    text = everything(changed)
    assert "high-pass filtered (0.01 Hz) by a zero-phase Butterworth filter of order 5" in text
    assert "They were expressed as percent signal change." in text
    assert "murphy2017" in changed.keys and "lindquist2019" not in changed.keys
    assert "resampled" not in text


def test_one_test_set_and_folds_have_their_own_statistics(folder: Path) -> None:
    single = write(folder / "holdout" / "synthetic" / "config.yaml")
    folded = write(folder / "leave_one_site_out" / "synthetic" / "config.yaml")
    assert {"efron1993", "delong1988"} <= set(single.keys) and "nadeau2003" not in single.keys
    assert "nadeau2003" in folded.keys and "delong1988" not in folded.keys
    assert "one held-out test set" in everything(single)
    assert "leave-one-site-out cross-validation" in everything(folded)
    assert "3 models were trained without labels on the training side of each fold of demo" in everything(folded)


def test_holm_is_cited_where_p_values_were_corrected(folder: Path, tmp_path: Path) -> None:
    config = write_study(tmp_path / "synthetic", "leave_one_site_out")
    assert "holm1979" not in write(config).keys  # three folds give no test
    metrics = tables.read([config.parent / "metrics.parquet"], tables.METRICS, "metrics")
    metrics.loc[metrics["delta"].notna(), ["p_nb", "p_holm"]] = 0.04
    tables.write(config.parent / "metrics.parquet", metrics, tables.METRICS)
    assert "holm1979" in write(config).keys


def test_a_model_is_told_from_what_its_training_recorded(folder: Path, tmp_path: Path) -> None:
    config = write_study(tmp_path / "synthetic")
    path = Study(config.parent).model("semantoks-demo", 0) / "main" / "0" / "config.json"
    about = read_json(path)
    about["recipe"] = {"train": {"batch_size": 8, "accumulate": 4, "lr": 0.002, "weight_decay": 0.05}}
    about["training"]["device"] = "NVIDIA H100"
    write_json(path, about)
    found = write(config)
    text = everything(found)
    assert "semantoks-demo is Brain-Semantoks" in text and "gijsen2026" in found.keys
    assert "(36 people), for 600 steps of 8 people." in text
    assert "AdamW with a learning rate of 0.002 and a weight decay of 0.05" in text
    assert "Training took 24 s on NVIDIA H100." in text
    assert not {"thomas2022", "dufumier2021", "neuroclr", "neurossl"} & set(found.keys)


@pytest.mark.parametrize(("file", "key"), [("net_benefit.parquet", "vickers2006"), ("drivers.parquet", "haufe2014")])
def test_optional_tables_are_cited_where_they_are(tmp_path: Path, file: str, key: str) -> None:
    config = write_study(tmp_path / "synthetic")
    assert key not in write(config).keys
    pd.DataFrame({"task": []}).to_parquet(config.parent / file)
    assert key not in write(config).keys  # of a study without such tasks
    pd.DataFrame({"task": ["diagnosis"]}).to_parquet(config.parent / file)
    assert key in write(config).keys


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("dependence_mean_fd", "among people with the same target was measured for mean fd"),
        ("seed_icc", "ICC(2,1) (Shrout & Fleiss, 1979)"),
        ("seed_kappa", "Cohen's kappa (Cohen, 1960)"),
        ("identification_top1", "identification (Finn et al., 2015)"),
        ("site_balanced_accuracy", "the site can be told"),
    ],
)
def test_further_measures_are_told_where_they_were_computed(tmp_path: Path, metric: str, words: str) -> None:
    config = write_study(tmp_path / "synthetic")
    assert words not in everything(write(config))
    metrics = tables.read([config.parent / "metrics.parquet"], tables.METRICS, "metrics")
    more = metrics.head(1).assign(metric=metric)
    tables.write(config.parent / "metrics.parquet", pd.concat([metrics, more]), tables.METRICS)
    assert words in everything(write(config))


def test_what_is_joined_is_named_once_with_and_without_combat(tmp_path: Path) -> None:
    config = write_study(tmp_path / "synthetic")
    path = config.parent / "metrics.parquet"
    metrics = tables.read([path], tables.METRICS, "metrics")
    names = ("semantoks-demo + fc", "semantoks-demo + fc (ComBat)", "semantoks-demo + fc (random weights) (ComBat)")
    more = [metrics.head(1).assign(system=name, harmonisation="combat") for name in names]
    tables.write(path, pd.concat([metrics, *more]), tables.METRICS)
    assert "were also read out together with functional connectivity." in everything(write(config))


def test_clips_are_shuffled_otherwise_than_people(tmp_path: Path) -> None:
    config = write_study(tmp_path / "synthetic")
    path = config.parent / "metrics.parquet"
    people = "permutations of the labels within site, with the whole readout fitted anew"
    assert people in everything(write(config))
    metrics = tables.read([path], tables.METRICS, "metrics")
    tables.write(path, metrics.assign(target_type="decoding"), tables.METRICS)
    text = everything(write(config))
    assert people not in text
    assert "among the clips of each test person, with the decoder as it was" in text


@pytest.mark.parametrize("scheme", ["holdout", "leave_one_site_out"])
def test_the_file_cites_what_the_bibliography_holds_and_nothing_else(folder: Path, scheme: str) -> None:
    found = write(folder / scheme / "synthetic" / "config.yaml")
    text = found.markdown("synthetic")
    assert yaml.safe_load(text.split("---")[1]) == {
        "title": "Methods of the study synthetic",
        "bibliography": "references.bib",
    }
    cited = {key for group in re.findall(r"\[(@[^\]]+)\]", text) for key in group.replace("@", "").split("; ")}
    assert cited == set(re.findall(r"^@\w+\{(\w+),", found.bibtex(), re.M)) == set(found.keys)
    assert cited <= set(references.library())
    assert "[@" not in everything(found)


def test_catalogue_atlases_are_cited_and_own_ones_are_named(tmp_path: Path) -> None:
    config = write_study(tmp_path / "synthetic")
    shards = Study(config.parent).shards("demo")
    regions = pd.DataFrame({"index": range(4), "atlas": ["tian-s3", "tian-s3", "mine", "mine"]})
    regions.to_csv(shards / "regions.tsv", sep="\t", index=False)
    found = write(config)
    assert "The brain was divided into 2 regions of tian-s3 (Tian et al., 2020) and 2 regions of mine." in everything(
        found
    )
    assert "tian2020" in found.keys and "schaefer2018" not in found.keys and "ciric2022" not in found.keys
