"""A user's own method, network and data set: listed, planned and checked like ours, and named in the cell."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark import extensions, networks
from kdbench.benchmark.data import DATASETS
from kdbench.benchmark.plans.grid import Grid, load
from kdbench.methods.method import METHODS
from kdbench.refusal import Refusal

METHOD = '''
from kdbench.methods.method import METHODS, Method
from kdbench.refusal import Refusal

@METHODS.register("echo")
class Echo(Method):
    """The student's logits echo the teacher's."""

    source = "logits"

    def __init__(self, student, teacher, facts, *, weight: float = 1.0):
        super().__init__(student, teacher, facts)
        if weight > 9:
            raise Refusal(f"echo: weight must be at most 9, got {weight}")

    def losses(self, student, teacher, batch):
        return {}
'''
NETWORK = """
from torch import nn
from kdbench.benchmark.networks import network
from kdbench.methods.chain import Chain

@network("linear")
def linear(classes, image):
    net = nn.Sequential(nn.Flatten(), nn.Linear(image[0] * image[1] * image[2], classes))
    return Chain(net, list(net), stages=[1], image=image)

@network("large only")
def large(classes, image):
    net = nn.Sequential(nn.Conv2d(image[0], 4, 9), nn.Flatten(), nn.Linear(4 * 24 * 24, classes))
    return Chain(net, list(net), stages=[1], image=image)

@network("no chain")
def no_chain(classes, image):
    return nn.Flatten()

@network("other image")
def other(classes, image):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
    return Chain(net, list(net), stages=[1])

@network("too deep")
def deep(classes, image):
    net = nn.Sequential(nn.Flatten(), nn.Linear(image[0] * image[1] * image[2], classes))
    return Chain(net, list(net), stages=[3], image=image)

@network("wrong")
def wrong(classes, image):
    return undefined

@network("mute")
def mute(classes, image):
    net = nn.Sequential(nn.Flatten(), nn.Linear(image[0] * image[1] * image[2], 7))
    return Chain(net, list(net), stages=[1], image=image)
"""
DATA = """
from kdbench.benchmark.data import DATASETS, Source

DATASETS.register("dots")(Source(classes=3, image=(1, 8, 8), train=30, test=9, read=lambda folder: None))
"""
GRID = """
files: [method.py, parts/network.py, data.py]
datasets: [dots, 'dots:held-out']
pairs: resnet8x0.25 -> linear
methods: [ce, echo, kd]
recipe: quick
"""

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"method.py": METHOD, "parts/network.py": NETWORK, "data.py": DATA, "grid.yaml": GRID}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def forget() -> None:
    """As in a process that starts anew."""
    del METHODS._things["echo"], DATASETS._things["dots"]
    theirs = ("linear", "large only", "no chain", "other image", "too deep", "wrong", "mute")
    networks.registry.FAMILIES[:] = [family for family in networks.registry.FAMILIES if family.names[0] not in theirs]
    extensions._loaded.clear()
    extensions._owner.clear()
    networks.form.cache_clear()


def codes(grid: Grid) -> dict[str, set[str]]:
    return {cell.method: set(cell.code) for cell in grid.cells}


@pytest.mark.parametrize(
    ("noun", "file", "name"),
    [("methods", "method.py", "echo"), ("networks", "parts/network.py", "linear"), ("datasets", "data.py", "dots")],
)
def test_ones_own_are_listed_and_shown_with_their_file(
    kdbench: Command, folder: Path, noun: str, file: str, name: str
) -> None:
    if noun == "networks":  # one that cannot take every image is listed too
        assert "must return 100 logits, got 7" in kdbench("list", noun, "--with", file).out
    assert name in [row["name"] for row in json.loads(kdbench("list", noun, "--with", file, "--json").out)]
    assert kdbench("show", name, "--with", file).code == 0
    assert extensions.origin(name) == str(folder / file)


def test_a_network_that_only_the_pattern_of_a_family_names_is_named_with_its_file(folder: Path) -> None:
    (folder / "family.py").write_text(
        "from kdbench.benchmark.networks import family\n"
        'family(r"wide(?P<width>\\d+)", "wide8")(lambda name, classes, image: None)\n'
    )
    extensions.load(Path("family.py"))
    assert list(extensions.needed("wide9", "kd")) == ["family.py"] and extensions.needed("resnet20") == {}
    assert extensions.origin("wide9") == str(folder / "family.py")


def test_a_network_of_ones_own_comes_before_a_pattern_of_ours_that_its_name_fits(folder: Path) -> None:
    (folder / "mine.py").write_text(NETWORK[: NETWORK.index('@network("large')].replace('"linear"', '"resnet26"'))
    try:
        extensions.load(Path("mine.py"))
        assert len(networks.build("resnet26", 10, (1, 8, 8)).links) == 2
        assert list(extensions.needed("resnet26")) == ["mine.py"] and extensions.needed("resnet32") == {}
    finally:
        networks.registry.FAMILIES[:] = [one for one in networks.registry.FAMILIES if one.names[0] != "resnet26"]


def test_ones_own_are_planned_and_named_in_the_cells_that_need_them(kdbench: Command) -> None:
    answer = kdbench("plan", "grid.yaml")
    assert answer.out.startswith("grid: 6 cells and 2 teachers: 8 missing\n")
    grid = load("grid.yaml")
    assert codes(grid) == {
        "ce": {"data.py", "network.py"},
        "echo": {"data.py", "network.py", "method.py"},
        "kd": {"data.py", "network.py"},
    }
    assert {frozenset(teacher.code) for teacher in grid.teachers.values()} == {frozenset({"data.py"})}


@pytest.mark.parametrize("around", ["standardized: {method: echo}", "crd+standardized: {standardized: {method: echo}}"])
def test_ones_own_method_inside_another_is_named_too(folder: Path, around: str) -> None:
    """Else a file that changed would leave the cell's id as it was."""
    (folder / "grid.yaml").write_text(GRID.replace("[ce, echo, kd]", f"[{{{around}}}]"))
    (code,) = codes(load("grid.yaml")).values()
    assert code == {"data.py", "network.py", "method.py"}


def test_a_grids_files_lie_beside_it_wherever_the_command_is_called(
    kdbench: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "away").mkdir()
    monkeypatch.chdir("away")
    assert kdbench("plan", folder / "grid.yaml").out.startswith("grid: 6 cells")


def test_a_file_that_changes_changes_the_ids_of_the_cells_that_need_it(folder: Path) -> None:
    before = load("grid.yaml")
    forget()
    (folder / "method.py").write_text(METHOD + "# a thought\n")
    after = load("grid.yaml")
    same = {cell.method: cell.id == other.id for cell, other in zip(before.cells, after.cells, strict=True)}
    assert same == {"ce": True, "echo": False, "kd": True}


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ("{'student': 3}", "echo: needs() must return Needs, got a dict"),
        ("Needs(student=frozenset({99}))", "echo: needs() must name depths from 0 to the student's 2, got 99"),
        ("Needs(teacher=frozenset({99}))", "echo: needs() must name depths from 0 to the teacher's 11, got 99"),
    ],
)
def test_needs_that_cannot_be_met_are_invalid_and_the_other_methods_are_not(
    kdbench: Command, folder: Path, needs: str, why: str
) -> None:
    own = f"    def needs(self):\n        from kdbench.methods.method import Needs\n        return {needs}\n"
    (folder / "method.py").write_text(METHOD + "\n" + own)
    answer = kdbench("plan", "grid.yaml")
    assert answer.code == 0 and why in answer.out
    assert answer.out.startswith("grid: 6 cells and 2 teachers: 6 missing, 2 invalid\n")


@pytest.mark.parametrize(
    ("reads", "why"),
    [
        ("1 / 0", "dots cannot be read: ZeroDivisionError: division by zero (data.py, line 4)"),
        ("None", "dots: its reader must return a Dataset, got a NoneType"),
    ],
)
def test_a_data_set_that_cannot_be_read_is_refused_in_a_sentence(
    kdbench: Command, folder: Path, reads: str, why: str
) -> None:
    (folder / "data.py").write_text(DATA.replace("lambda folder: None", f"lambda folder: {reads}"))
    assert kdbench("run", "grid.yaml").sentence.replace(":held-out", "") == why  # whichever is read first


def test_where_a_file_lies_changes_no_id(folder: Path) -> None:
    before = [cell.id for cell in load("grid.yaml").cells]
    forget()
    (folder / "moved").mkdir()
    (folder / "parts" / "network.py").rename(folder / "moved" / "network.py")
    (folder / "grid.yaml").write_text(GRID.replace("parts/", "moved/"))
    assert [cell.id for cell in load("grid.yaml").cells] == before


@pytest.mark.parametrize(
    ("more", "words", "sentence"),
    [
        ("", [], "data.py must be loaded for this cell: pass it with --with"),
        ("# a thought", ["--with", "data.py"], "data.py must be the same as when the cell was declared (digest "),
    ],
)
def test_a_cell_is_run_anew_with_the_files_that_it_was_declared_with(
    kdbench: Command, folder: Path, more: str, words: list[str], sentence: str
) -> None:
    teacher = next(iter(load("grid.yaml").teachers.values()))
    (folder / "cell.json").write_bytes(msgspec.json.encode(teacher))
    forget()
    (folder / "data.py").write_text(DATA + more)
    assert sentence in kdbench("run", "--cell", "cell.json", *words).sentence


def test_loading_twice_is_harmless(kdbench: Command) -> None:
    first = kdbench("plan", "grid.yaml", "--with", "method.py", "--with", "./method.py")
    assert (first.code, first.out) == (0, kdbench("plan", "grid.yaml").out)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("echo,", "ecko,", "methods[1]: unknown method 'ecko'; did you mean 'echo'"),
        ("-> linear", "-> linaer", "pairs: unknown network 'linaer'; did you mean 'linear'?"),
        ("[dots,", "[dot,", "datasets[0]: unknown data set 'dot'; did you mean 'dots'?"),
        ("echo,", "{echo: {wait: 2}},", "methods[1].echo.wait: echo has no parameter 'wait'"),
        ("echo,", "{echo: {weight: hot}},", "methods[1].echo.weight: must be a number, got 'hot'"),
        ("-> linear", "-> large only", "pairs: large only cannot take images of 1x8x8: "),
        ("-> linear", "-> mute", "pairs: mute must return 3 logits, got 7"),
        ("-> linear", "-> no chain", "pairs: no chain must be a Chain, got a Flatten"),
        ("-> linear", "-> other image", "pairs: other image must pass the given image to its chain, (1,"),
        ("-> linear", "-> too deep", "ValueError: stages must be depths from 0 to 2, got (3,) (network.py, line 28)"),
        ("-> linear", "-> wrong", "NameError: name 'undefined' is not defined (network.py, line 32)"),
        ("-> linear", "-> resnet8x025", "pairs: unknown network 'resnet8x025'; did you mean 'resnet8x0.25'"),
    ],
)
def test_ones_own_are_checked_like_ours(kdbench: Command, folder: Path, old: str, new: str, sentence: str) -> None:
    (folder / "grid.yaml").write_text(GRID.replace(old, new))
    assert f": {sentence}" in kdbench("plan", "grid.yaml").sentence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("facts.missing", "AttributeError: 'Facts' object has no attribute 'missing' (method.py, line 13)"),
        ("facts.labels.new_ones(2).to('meta').tolist()", "a plan builds methods without values"),
    ],
)
def test_what_goes_wrong_in_ones_own_method_is_told_with_its_line(
    kdbench: Command, folder: Path, line: str, sentence: str
) -> None:
    (folder / "method.py").write_text(METHOD.replace("        if weight", f"        {line}\n        if weight"))
    assert sentence in kdbench("plan", "grid.yaml").out


def test_what_ones_own_method_refuses_is_invalid(kdbench: Command, folder: Path) -> None:
    (folder / "grid.yaml").write_text(GRID.replace("echo,", "{echo: {weight: 10}},"))
    answer = kdbench("plan", "grid.yaml")
    assert answer.out.startswith("grid: 6 cells and 2 teachers: 6 missing, 2 invalid\n")
    assert "echo: weight must be at most 9, got 10.0" in answer.out


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('source = "logits"', 'source = "feature"', "source must be one of labels, logits, features, gradients, "),
        ('source = "logits"', "", "relations, got None"),
        ("Echo(Method)", "Echo", "method.py: echo must be a subclass of Method, got Echo"),
        ("def losses", "def loses", "method.py: echo must define losses()"),
        (
            "facts, *, weight",
            "facts, weight",
            "echo: a hyper-parameter must be keyword-only, after '*' in __init__, got",
        ),
    ],
)
def test_what_a_methods_author_forgot_is_said_at_once(
    kdbench: Command, folder: Path, old: str, new: str, sentence: str
) -> None:
    (folder / "method.py").write_text(METHOD.replace(old, new))
    assert sentence in kdbench("list", "methods", "--with", "method.py").sentence


def test_an_imported_teacher_of_ones_own_network_is_named_with_its_file(folder: Path) -> None:
    (folder / "grid.yaml").write_text(GRID.replace("resnet8x0.25 -> linear", "linear@0123456789ab -> resnet8x0.25"))
    teachers = load("grid.yaml").teachers.values()
    assert {frozenset(teacher.code) for teacher in teachers} == {frozenset({"data.py", "network.py"})}


def test_two_files_of_one_name_cannot_be_told_apart_and_are_refused(folder: Path) -> None:
    (folder / "parts" / "data.py").write_text(DATA.replace("dots", "dashes"))
    extensions.load(folder / "data.py")
    with pytest.raises(Refusal, match=r"parts/data.py must not share its name with another file: .*data.py is loaded"):
        extensions.load(folder / "parts" / "data.py")


# -- plugins ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command answers where a package is installed whose entry point names its module."""

    def ask(source: str, *command: str, module: str = "echoing") -> str:
        site = tmp_path / "site"
        about = site / "echoing-1.0.dist-info"
        about.mkdir(parents=True)
        (site / "echoing.py").write_text(source)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: echoing\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[kdbench]\necho = {module}\n")
        path = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-m", "kdbench.benchmark.cli", *command],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    return ask


def test_an_installed_plugin_is_planned_like_ours_and_named_in_the_cell(
    installed: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(
        "datasets: digits\npairs: resnet8 -> resnet8x0.5\nmethods: [echo, echo: {weight: 10}]\nrecipe: quick\nseeds: 1"
    )
    answer = json.loads(installed(METHOD, "plan", "grid.yaml", "--json"))
    assert answer["counts"]["missing"] == 2  # the teacher too
    assert [cell["reason"] for cell in answer["cells"]].count("echo: weight must be at most 9, got 10.0") == 1


def test_a_plugin_goes_by_its_module(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Several may be a package's ``__init__.py``: one must not hide that another has changed."""
    for name in ("one", "other"):
        monkeypatch.setitem(extensions._loaded, folder / name / "__init__.py", name)
        monkeypatch.setitem(extensions._module, folder / name / "__init__.py", name)
        monkeypatch.setitem(extensions._owner, name, folder / name / "__init__.py")
    assert extensions.needed("one", "other") == {"one": "one", "other": "other"}
    extensions.needs({"one": "one", "other": "other"})
    with pytest.raises(Refusal, match="other must be the same as"):
        extensions.needs({"one": "one", "other": "another"})


@pytest.mark.parametrize(
    ("source", "module", "sentence"),
    [
        ("1 / 0", "echoing", "the plugin 'echo' cannot be loaded: ZeroDivisionError: division by zero"),
        ("", "echoing", "the plugin 'echo' registers no method, network or data set"),
        ("", "nowhere", "the plugin 'echo' cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "echoing.inner", "the plugin 'echo' cannot be loaded: ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_sentence(
    installed: Callable[..., str], source: str, module: str, sentence: str
) -> None:
    assert installed(source, "plan", "quickstart", module=module).strip() == f"kdbench: {sentence}"
