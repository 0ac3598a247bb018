"""The doctor finds each problem that is put before it, and says what to do about it."""

import re
import subprocess
import sys
from importlib import metadata

import pytest
import yaml

from neuropipe import cli, doctor
from neuropipe import config as configuration
from neuropipe.demo.people import Site
from neuropipe.demo.study import make_plan, write_study

SITES = (
    Site("one", t_r=2.0, n_volumes=40, n_pairs=1, gain=1.0, noise_percent=1.2),
    Site("two", t_r=1.5, n_volumes=40, n_pairs=1, gain=0.7, noise_percent=1.4),
)
CONFIG = """
study: small
datasets:
  small:
    kind: fmriprep
    path: study/derivatives/fmriprep
    participants: study/participants.tsv
    select: {task: [rest]}
atlases:
  - {id: demo457, image: study/atlas/ATLAS.nii.gz, table: study/atlas/ATLAS.tsv, space: MNI152NLin6Asym}
splits:
  main: {scheme: holdout, test: 0.3}
tasks:
  diagnosis: {target: diagnosis, kind: binary, positive: patient, datasets: [small], split: main}
""".replace("ATLAS", "tpl-MNI152NLin6Asym_atlas-Demo457_dseg")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    write_study(folder / "study", make_plan(0, SITES), jobs=1)
    return folder


@pytest.fixture
def study(data, tmp_path, monkeypatch):
    """A folder with a good configuration and good data; commands run in it."""
    (tmp_path / "study").symlink_to(data / "study")
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "ENOUGH_DISK_GB", 0.001)  # the machine of the tests is not on trial
    monkeypatch.setattr(doctor, "ENOUGH_MEMORY_GB", 0.1)
    return tmp_path


def _edit(study, old, new):
    text = (study / "config.yaml").read_text()
    assert old in text
    (study / "config.yaml").write_text(text.replace(old, new))


def _problem(examination, name):
    found = [check for check in examination.problems if check.name == name]
    assert found, [check.name for check in examination.problems]
    return found[0]


def test_a_good_study_has_no_problem(study):
    examination = doctor.run(config=None)
    assert examination.problems == []
    assert examination.exit_code == 0
    assert examination.lines[-1] == "All is well."
    found = {check.name: check.found for check in examination.checks}
    assert found["data small"].startswith("6 runs of 4 people")
    assert found["people small"].startswith("4 in")
    assert found["atlas demo457"] == "457 regions in MNI152NLin6Asym"
    assert metadata.version("nilearn") in found["nilearn"]


def test_without_a_configuration_the_machine_alone_is_examined(study):
    (study / "config.yaml").unlink()
    examination = doctor.run(config=None)
    assert examination.exit_code == 0
    assert "--config" in examination.checks[-1].found


def test_a_named_configuration_that_is_not_there_is_a_problem(study):
    assert "nowhere.yaml" in _problem(doctor.run(config=study / "nowhere.yaml"), "configuration").remedy


def test_all_mistakes_of_a_configuration_are_listed(study):
    _edit(study, "kind: fmriprep", "kind: fmriprepp")
    _edit(study, "test: 0.3", "test: 3.5")
    examination = doctor.run(config=study / "config.yaml")
    assert examination.exit_code == 2
    text = "\n".join(examination.lines)
    assert "datasets.small.kind" in text
    assert "splits.main.test" in text


def test_data_that_are_not_there(study):
    _edit(study, "path: study/derivatives/fmriprep", "path: study/derivatives/other")
    assert "datasets.small.path" in _problem(doctor.run(config=None), "data small").remedy


def test_a_selection_that_nothing_fits(study):
    _edit(study, "task: [rest]", "task: [faces]")
    assert "faces" in _problem(doctor.run(config=None), "data small").remedy


def test_people_without_the_target_of_a_task(study):
    _edit(study, "target: diagnosis", "target: diagnoses")
    assert "['diagnoses']" in _problem(doctor.run(config=None), "people small").remedy


@pytest.mark.parametrize(
    ("old", "new", "name", "words"),
    [
        ("positive: patient", "positive: case", "task diagnosis", "the positive value 'case'; found control"),
        ("kind: binary, positive: patient", "kind: regression", "task diagnosis", "Expected numbers"),
        (
            "split: main}",
            "split: main, confounds: [agee]}",
            "task diagnosis",
            "tasks.diagnosis.confounds: .* 'age'?",
        ),
        ("split: main}", "split: main, confounds: [tiv_ml]}", "task diagnosis", "'tiv_ml' is not known"),
        ("test: 0.3}", "test: 0.3, stratify: [sitee]}", "task diagnosis", "splits.main: No .*Did you mean 'site'?"),
        (
            "select: {",
            "roles: {site: centre}\n    select: {",
            "roles small",
            r"lacks \(site: centre\); found",
        ),
    ],
)
def test_what_people_cannot_answer_is_said_before_anything_runs(study, old, new, name, words):
    _edit(study, old, new)
    assert re.search(words, _problem(doctor.run(config=None), name).remedy)


def test_a_good_task_says_how_many_people_it_asks(study):
    _edit(study, "split: main}", "split: main, confounds: [age, sex, site, mean_fd]}")
    examination = doctor.run(config=None)
    assert not examination.problems
    assert {check.name: check.found for check in examination.checks}[
        "task diagnosis"
    ] == "diagnosis: 2 control, 2 patient"


def test_of_a_table_without_rows_no_task_is_asked(study):
    header = (study / "study" / "participants.tsv").read_text().splitlines()[0]
    (study / "people.tsv").write_text(header + "\n")
    _edit(study, "study/participants.tsv", "people.tsv")
    assert [check.name for check in doctor.run(config=None).problems] == ["data small"]


def test_a_target_may_be_a_role(study):
    text = (study / "study" / "participants.tsv").read_text().replace("\tage", "\tyears", 1)
    (study / "people.tsv").write_text(text)
    _edit(study, "study/participants.tsv", "people.tsv")
    _edit(study, "select: {", "roles: {age: years}\n    select: {")
    _edit(study, "target: diagnosis, kind: binary, positive: patient", "target: age, kind: regression")
    assert not doctor.run(config=None).problems


def test_an_atlas_that_was_not_fetched_comes_with_the_command_that_fetches_it(study, monkeypatch):
    monkeypatch.setenv("NEUROPIPE_CACHE", str(study / "empty"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(study / "empty"))
    start, end = CONFIG.index("atlases:"), CONFIG.index("splits:")
    (study / "config.yaml").write_text(CONFIG[:start] + "atlases: [tian-s3]\n" + CONFIG[end:])
    assert "neuropipe atlas fetch tian-s3" in _problem(doctor.run(config=None), "atlas tian-s3").remedy


def test_a_transform_that_was_not_fetched_comes_with_the_command_that_fetches_it(study, monkeypatch, tmp_path):
    for name in ("HOME", "NEUROPIPE_CACHE", "TEMPLATEFLOW_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    _edit(study, "atlases:", "warp: true\natlases:")
    _edit(study, "space: MNI152NLin6Asym}", "space: MNI152NLin2009cAsym}")
    _edit(study, "{task: [rest]}", "{task: [rest], space: MNI152NLin6Asym}")
    problem = _problem(doctor.run(config=None), "transform MNI152NLin2009cAsym-to-MNI152NLin6Asym")
    assert "neuropipe atlas fetch MNI152NLin2009cAsym-to-MNI152NLin6Asym" in problem.remedy


def test_atlases_in_two_spaces(study):
    _edit(study, "atlases:", "atlases:\n  - {id: b, image: x.nii.gz, table: x.tsv, space: MNI152NLin2009cAsym}")
    examination = doctor.run(config=None)
    assert "MNI152NLin2009cAsym" in _problem(examination, "space of the atlases").remedy
    assert "x.nii.gz" in _problem(examination, "atlas b").remedy


def test_a_recipe_whose_family_reads_something_else(study):
    _edit(study, "tasks:", "pretrain:\n  yaware-demo: {datasets: [small]}\ntasks:")
    remedy = _problem(doctor.run(config=None), "recipe yaware-demo").remedy
    assert "yaware, which reads volume, but the datasets of pretrain.yaware-demo hold series" in remedy


def test_a_recipe_that_is_to_be_fine_tuned_but_does_not_say_how(study):
    content = yaml.safe_load((configuration.RECIPES / "semantoks-demo.yaml").read_text())
    _edit(study, "tasks:", "pretrain:\n  tiny: {datasets: [small], recipe: tiny.yaml, finetune: [diagnosis]}\ntasks:")
    (study / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert not any(check.name == "recipe tiny" for check in doctor.run(config=None).problems)
    del content["finetune"]
    (study / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert "tiny.yaml has no section finetune:" in _problem(doctor.run(config=None), "recipe tiny").remedy


def test_a_column_that_a_recipe_learns_from_is_asked_for(study):
    text = (study / "study" / "participants.tsv").read_text().replace("\tage", "\tyears", 1)
    (study / "people.tsv").write_text(text)
    _edit(study, "study/participants.tsv", "people.tsv")
    assert not any(check.name == "people small" for check in doctor.run(config=None).problems)
    _edit(study, "tasks:", "pretrain:\n  yaware-demo: {datasets: [small]}\ntasks:")
    assert "['age'], which tasks name as targets or recipes learn from" in (
        _problem(doctor.run(config=None), "people small").remedy
    )


def test_a_recipe_that_is_not_there(study):
    _edit(study, "tasks:", "pretrain:\n  unheard-of: {datasets: [small]}\ntasks:")
    assert "pretrain.unheard-of" in _problem(doctor.run(config=None), "recipe unheard-of").remedy


def test_results_that_cannot_be_written(study):
    (study / "results").write_text("a file where a folder should be")
    assert "folder" in _problem(doctor.run(config=None), "results").remedy


def test_too_little_memory_and_disk(study, monkeypatch):
    monkeypatch.setattr(doctor, "ENOUGH_MEMORY_GB", 1e6)
    monkeypatch.setattr(doctor, "ENOUGH_DISK_GB", 1e9)
    assert {check.name for check in doctor.run(config=None).problems} == {"memory", "results"}


def test_a_container_that_allows_less_than_the_machine_has(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    limit.write_text("1500000000\n")
    monkeypatch.setattr(doctor, "CONTAINER_LIMIT", limit)
    memory = next(check for check in doctor.check_machine() if check.name == "memory")
    assert memory.found == "1.5 GB"
    assert not memory.ok


@pytest.mark.parametrize(
    ("package", "version"), [("nilearn", "0.14.0"), ("snakemake", "10.0.1"), ("torch", "2.12.0"), ("packaging", "25.0")]
)
def test_a_version_that_does_not_fit(monkeypatch, package, version):
    monkeypatch.setattr(doctor, "_installed", lambda name: version if name == package else metadata.version(name))
    problems = [check for check in doctor.check_packages() if not check.ok]
    assert [check.name for check in problems] == [package]
    assert version in problems[0].found
    assert f"pip install '{package}" in problems[0].remedy


def test_a_missing_package_of_the_main_line_is_a_problem_and_an_optional_one_is_not(monkeypatch):
    gone = {"nibabel", "tensorboard"}
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name in gone else metadata.version(name))
    checks = {check.name: check for check in doctor.check_packages()}
    assert not checks["nibabel"].ok
    assert "tensorboard" in checks["other packages"].found
    assert checks["other packages"].ok


def test_a_driver_without_a_build_of_torch_that_uses_it(monkeypatch, tmp_path):
    import torch

    driver = tmp_path / "version"
    driver.write_text("NVRM version")
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "nvidia-smi" in doctor.check_gpu().remedy
    assert not doctor.check_gpu().ok
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path / "none")
    assert doctor.check_gpu().ok


def test_the_table_is_readable_without_rich(monkeypatch):
    checks = [doctor.Check("cores", True, "2"), doctor.Check("memory", False, "1 GB", "Buy more.\nOr use less.")]
    monkeypatch.setitem(sys.modules, "rich", None)
    lines = doctor.Examination(checks).lines
    assert lines[:2] == ["ok       cores   2", "PROBLEM  memory  1 GB"]
    assert lines[-3:] == ["What to do (1):", "1. memory: Buy more.", "   Or use less."]


def test_the_command_prints_the_table_and_ends_with_2_where_something_is_to_be_mended(study, capsys):
    assert cli.main(["doctor"]) == 0
    assert "All is well." in capsys.readouterr().out
    _edit(study, "study: small", "stuby: small")
    assert cli.main(["doctor", "--config", "config.yaml"]) == 2
    assert "stuby" in capsys.readouterr().out


def test_importing_the_doctor_is_light():
    code = "import sys, neuropipe.doctor; print(*{'torch', 'pandas', 'nibabel', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
