"""Folders of a dataset, and files whose content is elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuropipe.bids.tree import Tree, check_fetched, functional_folders
from neuropipe.errors import RunExcluded


def test_a_folder_is_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    folder = Tree(tmp_path).folder("")
    assert folder.names == ("a", "lost") and folder.folders == ("b", "linked")


def test_content_that_is_there_passes(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(bytes(40))
    (tmp_path / "link.nii.gz").symlink_to("x.nii.gz")
    check_fetched(tmp_path / "x.nii.gz")
    check_fetched(tmp_path / "link.nii.gz")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to(".git/annex/objects/xx/MD5E-s1--0.nii.gz"), "not fetched"),
        (lambda path: path.write_text("/annex/objects/MD5E-s1--0.nii.gz\n"), "not fetched"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "not fetched"),
        (lambda path: path.mkdir(), "missing file"),
        (lambda path: None, "missing file"),
    ],
    ids=["annex link", "annex pointer", "git-lfs pointer", "folder", "nothing"],
)
def test_content_that_is_not_there(tmp_path: Path, make, reason: str) -> None:
    make(tmp_path / "x.nii.gz")
    with pytest.raises(RunExcluded, match=r"x\.nii\.gz") as error:
        check_fetched(tmp_path / "x.nii.gz")
    assert error.value.reason == reason


def test_the_functional_folders_of_each_subject(tmp_path: Path) -> None:
    for folder in ("sub-1/func", "sub-1/ses-a/func", "sub-1/ses-b/anat", "sub-2/anat", "figures/func"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sub-1.html").touch()
    (tmp_path / "sub-1" / "func" / "x.tsv").touch()
    found = {subject: [(f.path, f.names) for f in folders] for subject, folders in functional_folders(tmp_path)}
    assert found == {"sub-1": [("sub-1/func", ("x.tsv",)), ("sub-1/ses-a/func", ())], "sub-2": []}
