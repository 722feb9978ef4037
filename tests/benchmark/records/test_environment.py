"""What a record says of the code: the commit of a checkout, or of the one that was copied."""

import subprocess
from pathlib import Path

import pytest

import kdbench
from kdbench.benchmark.records import environment

commit = environment.commit.__wrapped__


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=b@c"]
    return subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the code seems to lie: in a folder with a commit, which knows nothing of it yet."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    file = tmp_path / "benchmark" / "records" / "environment.py"
    for part in (file, tmp_path / "src" / "kdbench" / "__init__.py", tmp_path / "methods" / "method.py"):
        part.parent.mkdir(parents=True)
        part.touch()
    monkeypatch.setattr(environment, "__file__", str(file))
    monkeypatch.setattr(kdbench, "__file__", str(tmp_path / "src" / "kdbench" / "__init__.py"))
    return file


@pytest.mark.usefixtures("module")
def test_a_checkout_that_kdbench_only_lies_in_is_not_named_as_its_code() -> None:
    """A user's environment, inside the user's own repository."""
    assert commit() == ""


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("part", ["benchmark/records/environment.py", "methods/method.py", "src/kdbench/__init__.py"])
def test_code_that_is_not_as_committed_is_marked(tmp_path: Path, part: str) -> None:
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "ours")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    assert commit() == head
    (tmp_path / part).write_text("changed = True")
    assert commit() == f"{head}+changed"


@pytest.mark.usefixtures("module")
def test_a_copy_of_a_checkout_is_told_by_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "src" / environment.COMMIT).write_text("c0ffee+changed")
    assert commit() == "c0ffee+changed"
