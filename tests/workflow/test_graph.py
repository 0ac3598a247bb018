"""The graph as it is planned: dry runs, profiles, style; nothing is computed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from neuropipe.config import RECIPES
from neuropipe.errors import ConfigError
from neuropipe.workflow import Graph, config_path

ROOT = Path(__file__).resolve().parents[2]


def jobs(output: str) -> dict[str, int]:
    """Return the table of job counts that a dry run prints."""
    lines = iter(output.splitlines())
    for line in lines:
        if line.startswith("Job stats"):
            next(lines), next(lines)
            break
    counts = {}
    for line in lines:
        if not line.strip():
            break
        name, count = line.split()
        counts[name] = int(count)
    return counts


def test_the_whole_line_is_a_few_jobs_and_explains_itself(workplace, command):
    done = command(workplace, "snakemake", "-n")
    expected = {"parcellate": 5, "volumes": 1, "shard": 6, "collect": 3, "qc": 3, "hdf5": 2, "split": 1, "pretrain": 8}
    expected |= {"events": 1, "clips": 1, "decode": 1, "index_demo-states": 1}
    expected |= {"embed": 8, "finetune": 2, "probe": 4, "baselines": 4, "evaluate": 1, "report": 1, "all": 1}
    expected |= {"index_demo": 1, "index_demo-vbm": 1}
    assert jobs(done.stdout + done.stderr) == expected | {"total": 56}
    assert "Reasons:" in done.stdout + done.stderr


def test_maps_go_through_the_same_line_with_a_stage_of_their_own(workplace, command):
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    content["datasets"]["vbm"] = {"kind": "cat12", "path": "cat12", "n_chunks": 3}
    (workplace / "config.yaml").write_text(yaml.safe_dump(content))
    done = command(workplace, "snakemake", "-n", "-p", "shards_vbm")
    expected = {"index_vbm": 1, "volumes": 3, "shard": 3, "collect": 1, "shards_vbm": 1, "total": 9}
    assert jobs(done.stdout + done.stderr) == expected
    assert "neuropipe volumes --config config.yaml --dataset vbm" in done.stdout + done.stderr


@pytest.mark.parametrize("profile", ["slurm", "cluster-generic"])
def test_cluster_profiles_pass_a_dry_run(workplace, command, profile):
    done = command(workplace, "snakemake", "-n", "--workflow-profile", f"profiles/{profile}")
    assert jobs(done.stdout + done.stderr)["total"] == 56


def rules_asking(pattern: str) -> dict[str, list[str]]:
    """Return what each rule's text has for a pattern; rules made in a loop go by their file's name."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for block in re.split(r"^(?= *rule\b)", path.read_text(), flags=re.MULTILINE)[1:]:
            name = re.match(r" *rule (\w+):", block)
            found[name[1] if name else path.stem] = re.findall(pattern, block)
    return found


def test_whatever_ran_out_gets_more_at_the_next_attempt():
    training = {
        "pretrain",
        "finetune",
        "decode_finetune",
    }  # goes on from its checkpoint instead
    for rule, asked in rules_asking(r"mem_mb=(.*),\n").items():
        assert all(value.endswith("* attempt") for value in asked), rule
    for rule, asked in rules_asking(r"runtime=(.*),\n").items():
        assert all(value.endswith("* attempt") != (rule in training) for value in asked), rule


@pytest.mark.parametrize("profile", ["slurm", "cluster-generic"])
def test_every_rule_with_a_gpu_has_its_queue_in_the_profiles(profile):
    settings = yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text())
    assert {rule for rule, asked in rules_asking(r"\bgpu=(\d)").items() if asked} == set(settings["set-resources"])
    for asked in settings["set-resources"].values():
        assert asked.get("slurm_partition", asked.get("flags", "")).endswith("gpu")


@pytest.mark.parametrize("profile", ["slurm", "cluster-generic"])
def test_a_job_on_a_cluster_may_be_larger_than_the_login_node(workplace, command, profile):
    path = workplace / "profiles" / profile / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["set-resources"]["pretrain"]["gpu"] = 4
    settings["set-threads"] = {"pretrain": 256}
    path.write_text(yaml.safe_dump(settings))
    done = command(workplace, "snakemake", "-n", "model_semantoks-demo", "--workflow-profile", f"profiles/{profile}")
    job = (done.stdout + done.stderr).split("rule pretrain:")[1].split("Shell command")[0]
    assert "threads: 256" in job and "gpu=4" in job


def test_a_chunk_takes_the_threads_it_is_given(workplace, command):
    done = command(workplace, "snakemake", "-n", "-p", "--cores", "4", "--set-threads", "parcellate=3")
    assert "--workers 3" in done.stdout + done.stderr and "mem_mb=3000" in done.stdout + done.stderr


def test_lint_and_format(command):
    assert "good condition" in command(ROOT, "snakemake", "--lint").stderr
    command(ROOT, "snakefmt", "--check", "Snakefile", "rules")


def test_a_mistake_in_the_config_is_told_before_anything_runs(workplace, command):
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    content["clean"]["hi_pass"] = 0.01
    (workplace / "config.yaml").write_text(yaml.safe_dump(content))
    done = command(workplace, "snakemake", "-n", expect=1)
    assert "clean.hi_pass: unknown key" in done.stdout and "did you mean 'high_pass'" in done.stdout


def test_one_file_is_one_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path([]) == Path("config.yaml")
    assert config_path([tmp_path / "a" / "b.yaml"]) == Path("a/b.yaml")
    assert config_path(["/elsewhere/b.yaml"]) == Path("/elsewhere/b.yaml")
    with pytest.raises(ConfigError, match="One --configfile is one study"):
        config_path(["a.yaml", "b.yaml"])


def test_a_recipe_is_judged_where_the_config_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    graph = Graph("workflow/studies/abide_series.yaml")
    recipes = {path.stem for path in RECIPES.glob("*-abide.yaml")}
    assert {recipe for recipe, _ in graph.models("autism-transfer")} == recipes
    assert set(graph.finetuned("autism-transfer")) == set(graph.models("autism-transfer"))
    assert graph.models("autism") == []
    assert not any("tasks/autism/probe" in path for path in graph.predictions())


def test_a_recipe_that_is_fine_tuned_is_predicted_and_judged_with_the_task(tmp_path):
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    content["pretrain"] = {"semantoks-demo": {"datasets": ["demo"], "seeds": [0, 2], "finetune": ["age"]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    graph = Graph(tmp_path / "config.yaml")
    assert graph.finetuned("age") == [("semantoks-demo", 0), ("semantoks-demo", 2)]
    assert graph.finetuned("diagnosis") == []
    tuned = [path for path in graph.predictions() if "/finetune/" in path]
    assert tuned == [
        f"results/demo/tasks/age/finetune/semantoks-demo_seed-{seed}/predictions.parquet" for seed in (0, 2)
    ]


def test_a_fine_tuned_recipe_is_one_more_job_per_task(workplace, command):
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    content["pretrain"] = {"semantoks-demo": {"datasets": ["demo"], "finetune": ["age", "diagnosis"]}}
    (workplace / "config.yaml").write_text(yaml.safe_dump(content))
    done = command(workplace, "snakemake", "-n")
    assert jobs(done.stdout + done.stderr)["finetune"] == 2


def test_parameters_follow_the_config_sections_and_nothing_else():
    graph = Graph(ROOT / "config.yaml")
    clean = graph.config.clean
    assert graph.params("parcellate", clean) == graph.params("parcellate", clean.model_copy())
    assert graph.params("parcellate", clean) != graph.params("parcellate", clean.model_copy(update={"low_pass": 0.08}))


def test_people_of_a_linked_dataset_are_asked_for_where_they_are_named(tmp_path):
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    content["datasets"]["maps"] = {"kind": "cat12", "path": "nowhere", "people_of": "demo"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    tables = [Path(table).parent.name for table in Graph(path).participants(["maps"])]
    assert tables == ["maps", "demo"]


CHANGES = {  # of the demo's configuration, and whether its dataset must be scanned again
    "another task": (True, lambda content: content["datasets"]["demo"]["select"].update(task=["nback"])),
    "an atlas in another space": (True, lambda content: content["atlases"][0].update(space="MNI152NLin2009cAsym")),
    "an atlas of the catalogue": (True, lambda content: content.update(atlases=["schaefer400-7n-2009c"])),
    "atlases of several spaces": (True, lambda content: content.update(warp=True)),
    "another image of the same space": (False, lambda content: content["atlases"][0].update(image="other.nii.gz")),
    "other cleaning": (False, lambda content: content["clean"].update(low_pass=0.08)),
    "other limits": (False, lambda content: content["exclude"].update(max_mean_fd_mm=0.2)),
    "labels of events": (False, lambda content: content["datasets"]["demo"].update(events={"labels": "hcp7"})),
}


@pytest.mark.parametrize(("again", "change"), CHANGES.values(), ids=CHANGES)
def test_a_dataset_is_scanned_again_where_the_scan_could_find_something_else(tmp_path, again, change):
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    change(content)
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(content))
    before, after = (Graph(path).index_params("demo") for path in (ROOT / "config.yaml", tmp_path / "changed.yaml"))
    assert (before != after) == again


def test_an_atlas_does_not_rescan_series_that_are_ready_made(tmp_path):
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    content["datasets"]["others"] = {"kind": "series", "path": "series"}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(content | {"atlases": ["schaefer400-7n-2009c"]}))
    first, second = (Graph(tmp_path / f"{name}.yaml") for name in ("first", "second"))
    assert first.index_params("others") == second.index_params("others")
    assert first.index_params("demo") != second.index_params("demo")


MAP_CHANGES = {  # of a study of maps, and whether they are scanned and prepared again
    "other voxels": (True, True, {"volumes": {"voxel_mm": 2.0}}),
    "another format": (False, True, {"volumes": {"dtype": "uint8"}}),
    "a limit of image quality": (False, True, {"exclude": {"max_iqr_grade": 3.5}}),
    "a limit of motion": (False, False, {"exclude": {"max_mean_fd_mm": 0.2}}),
    "other cleaning": (False, False, {"clean": {"low_pass": 0.08}}),
}


@pytest.mark.parametrize(("scanned", "prepared", "change"), MAP_CHANGES.values(), ids=MAP_CHANGES)
def test_maps_are_made_again_where_they_would_be_others(tmp_path, scanned, prepared, change):
    content = {"study": "s", "datasets": {"vbm": {"kind": "cat12", "path": "cat12"}}}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(content | change))
    first, second = (Graph(tmp_path / f"{name}.yaml") for name in ("first", "second"))
    assert (first.index_params("vbm") != second.index_params("vbm")) == scanned
    assert (first.volumes_params("vbm") != second.volumes_params("vbm")) == prepared
    assert first.prepared("vbm", "00").endswith("receipts/vbm/volumes-00.json")


def test_test_datasets_are_embedded_and_told_but_divide_nothing(workplace, command):
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    content["datasets"]["away"] = content["datasets"]["demo"] | {"path": "elsewhere", "n_chunks": 1}
    content["tasks"]["age"]["test_datasets"] = ["away"]
    (workplace / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    graph = Graph(workplace / "config.yaml")
    assert graph.judged_datasets("csm-demo") == ["demo", "away"]
    assert graph.judged_datasets("yaware-demo") == ["demo-vbm"]
    assert ("csm-demo", 0) in graph.models("age") and ("csm-demo", 0) in graph.models("diagnosis")
    done = command(workplace, "snakemake", "-n", "-p", "task_age")
    commands = [line.partition("neuropipe ")[2] for line in (done.stdout + done.stderr).splitlines()]
    both = "--shards results/demo/shards/demo results/demo/shards/away"
    for stage, told in (("probe", True), ("baselines", True), ("embed", True), ("split", False), ("pretrain", False)):
        own = [line for line in commands if line.startswith(f"{stage} ")]
        assert own and all((both in line) == told for line in own), stage
