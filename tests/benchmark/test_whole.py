"""A file is there whole or not at all."""

import os
from pathlib import Path

import pytest

from kdbench.benchmark.whole import written


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_what_was_there_stays_until_all_of_the_new_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "a.bin", list[bytes]()
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(file.read_bytes()))
    with written(file) as stream:
        stream.write(b"new")
    assert (seen, file.read_bytes(), names(tmp_path)) == ([b"old"], b"new", {"a.bin"})


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    file, before = tmp_path / "a.bin", tmp_path / "b.bin"
    file.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), written(file, before=before) as stream:
        stream.write(b"new")
        raise KeyboardInterrupt
    assert (file.read_bytes(), names(tmp_path)) == (b"old", {"a.bin"})


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "a.bin"
    with pytest.raises(OSError) as raised, written(file):
        pass
    assert raised.value.filename == str(file)


def test_two_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    with written(file) as one, written(file) as other:
        one.write(b"one")
        other.write(b"other")
    assert (file.read_bytes(), names(tmp_path)) == (b"one", {"a.bin"})


def test_the_one_before_is_kept_where_that_is_asked(tmp_path: Path) -> None:
    file, before = tmp_path / "a.bin", tmp_path / "b.bin"
    for content in (b"1", b"2", b"3"):
        with written(file, before=before) as stream:
            stream.write(content)
    assert (before.read_bytes(), file.read_bytes()) == (b"2", b"3")
