"""Data are copied to a node's own disk once, whole, or not at all."""

import multiprocessing
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdbench.benchmark.data import DATASETS, Source
from kdbench.benchmark.data.staged import staged


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the data set ``tiny`` lies: two files in a folder."""
    known = dict(DATASETS._things)
    DATASETS.register("tiny")(Source(2, (1, 8, 8), 2, 2, lambda _: None, files=("tiny.tar", "tiny")))  # type: ignore[arg-type, return-value]
    folder = tmp_path / "data"
    for name in ("train", "val"):
        (folder / "tiny" / name).mkdir(parents=True)
        (folder / "tiny" / name / "image").write_text(name)
    yield folder
    DATASETS._things.clear()
    DATASETS._things.update(known)


def content(place: Path) -> list[str]:
    return sorted(file.read_text() for file in (place / "tiny").rglob("image"))


def test_they_are_copied_once_a_held_out_part_among_them(folder: Path, tmp_path: Path) -> None:
    place, why = staged("tiny", folder, tmp_path / "scratch")
    assert place.is_relative_to(tmp_path / "scratch") and content(place) == ["train", "val"] and "copied from" in why
    (place / "mark").touch()
    again, why = staged("tiny:held-out", folder, tmp_path / "scratch")
    assert again == place and (again / "mark").exists() and why.endswith("copied earlier")


def test_four_at_once_copy_once(folder: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        answers = pool.starmap(staged, [("tiny", folder, tmp_path / "scratch")] * 4)
    assert len({place for place, _ in answers}) == 1
    assert sorted(why.endswith("copied earlier") for _, why in answers) == [False, True, True, True]


def test_half_a_copy_is_not_believed(folder: Path, tmp_path: Path) -> None:
    place, _ = staged("tiny", folder, tmp_path / "scratch")
    place.rename(place.with_suffix(".part"))
    shutil.rmtree(place.with_suffix(".part") / "tiny" / "train")
    (place.with_suffix(".part") / "stale").touch()
    again, _ = staged("tiny", folder, tmp_path / "scratch")
    assert content(again) == ["train", "val"] and not (again / "stale").exists()


def test_changed_data_are_copied_anew(folder: Path, tmp_path: Path) -> None:
    before, _ = staged("tiny", folder, tmp_path / "scratch")
    os.utime(folder / "tiny", (1, 1))
    assert staged("tiny", folder, tmp_path / "scratch")[0] != before


@pytest.mark.parametrize("linked", [False, True])
def test_files_that_come_or_go_deep_in_a_folder_are_noticed(folder: Path, tmp_path: Path, linked: bool) -> None:
    inner = folder / "tiny" / "train"
    if linked:
        inner.symlink_to(inner.rename(tmp_path / "elsewhere"))
    os.utime(inner, (1, 1))  # the clock of a file system may stand still for as long as this test takes
    before, _ = staged("tiny", folder, tmp_path / "scratch")
    assert staged("tiny", folder, tmp_path / "scratch")[0] == before
    (inner / "corrected").write_text("train, corrected")
    (inner / "corrected").rename(inner / "image")
    place, why = staged("tiny", folder, tmp_path / "scratch")
    assert place != before and "copied from" in why and content(place) == ["train, corrected", "val"]


def test_an_archive_beside_the_folder_is_unpacked(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(folder / "tiny.tar", "w") as archive:
        archive.add(folder / "tiny", "tiny")
    shutil.rmtree(folder / "tiny")
    place, _ = staged("tiny", folder, tmp_path / "scratch")
    assert content(place) == ["train", "val"] and not (place / "tiny.tar").exists()


def test_an_archive_that_is_damaged_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(folder / "tiny.tar", "w") as archive:
        archive.add(folder / "tiny", "tiny")
    whole = (folder / "tiny.tar").read_bytes()
    (folder / "tiny.tar").write_bytes(whole[: whole.rindex(b"val") + 100])
    place, why = staged("tiny", folder, tmp_path / "scratch")
    assert place == folder and "could not be copied" in why and not list((tmp_path / "scratch").rglob("image"))


def test_without_room_they_are_read_where_they_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8))
    place, why = staged("tiny", folder, tmp_path / "scratch")
    assert place == folder and "it needs 8 bytes, and" in why and not list((tmp_path / "scratch").rglob("image"))


@pytest.mark.parametrize("scratch", ["/proc/nowhere", "/dev/null/scratch"])
def test_where_there_is_no_scratch_they_are_read_where_they_are(folder: Path, scratch: str) -> None:
    place, why = staged("tiny", folder, Path(scratch))
    assert place == folder and "could not be copied" in why


def test_what_no_files_hold_is_not_copied(tmp_path: Path) -> None:
    assert staged("digits", tmp_path, tmp_path / "scratch")[0] == tmp_path
    assert not (tmp_path / "scratch").exists()
