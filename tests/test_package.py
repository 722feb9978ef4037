"""The package as an installed user meets it."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kdbench

ROOT = Path(__file__).parents[1]
FILES_OF_A_CHECKOUT = (
    "pyproject.toml", "README.md", "LICENSE", "src", "benchmark", "methods", "slurm", "results/published"
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    subprocess.run(["cp", "-a", "--parents", *FILES_OF_A_CHECKOUT, copy], check=True, cwd=ROOT)
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    return next((copy / "dist").glob("*.whl"))


def test_the_wheel_holds_one_package_with_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"kdbench"}
    assert {"kdbench/py.typed", "kdbench/methods/logits/kd.py", "kdbench/benchmark/grids/quickstart.yaml"} <= set(names)
    published = {f"kdbench/published/{file.name}" for file in (ROOT / "results/published").iterdir()}
    assert published and published <= set(names)


def test_the_wheel_has_the_version_that_the_code_says(wheel: Path) -> None:
    assert wheel.name.startswith(f"kdbench-{kdbench.__version__}-")


def test_code_that_nobody_has_installed_knows_its_version() -> None:
    """As in a cluster's container, which has the dependencies alone."""
    code = "import sys; sys.path.insert(0, 'src'); import kdbench; print(kdbench.__version__)"
    words = [sys.executable, "-I", "-S", "-c", code]  # -S: without site-packages
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kdbench.__version__


def test_the_wheel_works_in_a_folder_that_has_rooms_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    zipfile.ZipFile(wheel).extractall(site)
    for room in ("methods", "benchmark", "slurm"):
        (work / room).mkdir(parents=True)
        (work / room / "__init__.py").write_text("raise ImportError('the wrong room')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from kdbench.benchmark.cli import main;"
        " import kdbench.methods as m; assert m.__file__.startswith(sys.path[0]), m;"
        " sys.argv[1:] = ['plan', 'quickstart']; main(); sys.argv[1:] = ['reproduce', 'list']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, site], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "31 missing" in done.stdout
    assert "standard-table" in done.stdout


def test_rooms_depend_on_each_other_in_one_direction() -> None:
    """The command alone knows all of them."""
    for room, above in {"methods": ("benchmark", "slurm"), "benchmark": ("slurm",)}.items():
        for file in (ROOT / room).rglob("*.py"):
            known = file.read_text() if file != ROOT / "benchmark/cli.py" else ""
            assert not [other for other in above if f"kdbench.{other}" in known], file


def test_the_folders_of_the_benchmark_depend_on_each_other_in_one_direction() -> None:
    order = [
        "networks",
        "data",
        "training",
        "incremental",
        "records",
        "plans",
        "runs",
        "throughput",
        "leaderboard",
        "comparison",
    ]
    assert set(order) == {file.parent.name for file in (ROOT / "benchmark").glob("*/*.py")}
    for place, folder in enumerate(order):
        for file in (ROOT / "benchmark" / folder).glob("*.py"):
            known = set(re.findall(r"kdbench\.benchmark(?:\.| import )(\w+)", file.read_text()))
            assert not known & set(order[place + 1 :]), file


def test_what_the_commands_verbs_share_is_known_to_them_alone() -> None:
    """Else the folders of a room and the files beside them import each other in circles."""
    for file in (ROOT / "benchmark").glob("*/*.py"):
        known = file.read_text()
        assert "benchmark.catalogue" not in known and "benchmark import catalogue" not in known, file
        assert "benchmark.options" not in known or file.name == "verbs.py", file


def test_the_bare_names_of_the_rooms_are_forbidden(tmp_path: Path) -> None:
    """A bare import would find whatever folder of that name the user has."""
    file = tmp_path / "bare.py"
    file.write_text("from methods.method import METHODS\n\nprint(METHODS)\n")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TID251" in done.stdout
