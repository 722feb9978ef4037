"""The command: what it lists, how it refuses, and that its help costs nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

import kdbench as package
from kdbench.benchmark import cli, networks
from kdbench.benchmark.conversion import Misfit
from kdbench.benchmark.data import DATASETS
from kdbench.benchmark.plans.grid import shipped
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import rerun
from kdbench.benchmark.runs.worker import failure
from kdbench.benchmark.training.recipe import RECIPES
from kdbench.methods.method import METHODS

Command, MakeCell, MakeRecord = Callable[..., Any], Callable[..., Cell], Callable[..., Record]

NAMES = {"methods": METHODS, "networks": networks.names(), "datasets": DATASETS, "recipes": RECIPES, "grids": shipped()}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_does_not_wait_for_torch() -> None:
    look = (
        "import sys; from kdbench.benchmark import cli; sys.argv = ['kdbench', '--help']; cli.main();"
        "print({'torch', 'pandas', 'numpy', 'yaml'} & set(sys.modules), file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert "Examples:" in answer.stdout
    assert answer.stderr == "set()\n"


def test_status_waits_for_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    (tmp_path / "zoo.yaml").write_text(
        "datasets: [cifar100, digits]\nmethods: [ce, kd]\nrecipe: cifar-240\n"
        "pairs: [wrn_40_2 -> ShuffleV1, resnet32x4 -> ShuffleV2, vgg13 -> MobileNetV2, ResNet50 -> vgg8]\n"
    )
    look = (
        "import sys; from kdbench.benchmark import cli; sys.argv = ['kdbench', 'status', 'zoo.yaml']; cli.main();"
        "heavy = {'torchvision', 'timm', 'torch._dynamo', 'matplotlib', 'pandas', 'scipy', 'sklearn'};"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert "24 missing" in answer.stdout
    assert answer.stderr == "set()\n"


@pytest.mark.parametrize("verb", [[], *([verb] for verb in cli.app.commands)], ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_verb_explains_itself_by_examples(kdbench: Command, verb: list[str], flag: str) -> None:
    answer = kdbench(*verb, flag)
    assert (answer.code, answer.err) == (0, "")
    examples = answer.out.partition("Examples:\n")[2]
    assert f"kdbench {' '.join(verb)}".rstrip() in examples


def test_the_version_is_the_packages(kdbench: Command) -> None:
    assert kdbench("--version").out == f"kdbench, version {package.__version__}\n"


@pytest.mark.parametrize("noun", NAMES)
def test_all_that_has_a_name_is_listed_for_people_and_for_scripts(kdbench: Command, noun: str) -> None:
    rows = json.loads(kdbench("list", noun, "--json").out)
    assert {row["name"] for row in rows} == set(NAMES[noun])
    lines = kdbench("list", noun).out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *(row["name"] for row in rows)]


NAMED = ["kd", "digits", "quick", "quickstart", "resnet8x0.25", "wrn_40_2", "resnet26x3", "gpu-partition"]


@pytest.mark.parametrize("name", NAMED)
def test_whatever_has_a_name_is_shown_for_people_and_for_scripts(kdbench: Command, name: str) -> None:
    row = json.loads(kdbench("show", name, "--json").out)
    assert name in row.values()
    assert f": {name}" in kdbench("show", name).out.splitlines()[0]


def test_a_finished_cell_is_shown_by_its_id(kdbench: Command, make_cell: MakeCell, make_record: MakeRecord) -> None:
    record = make_record(make_cell("kd", teacher="resnet14x0.5"), top1=71.5)
    Store(Path("results")).finish(record)
    assert json.loads(kdbench("show", record.id, "--json").out)["result"]["top1"] == 71.5
    assert "  top1: 71.5" in kdbench("show", record.id).out.splitlines()


def test_a_cell_need_not_be_called_by_the_whole_of_its_id(
    kdbench: Command, make_cell: MakeCell, make_record: MakeRecord
) -> None:
    first, second = (make_record(make_cell("kd", teacher="resnet14x0.5", seed=seed)) for seed in (0, 1))
    for record in (first, second):
        Store(Path("results")).finish(record)
    begins, digest = first.id.partition("-s0")[0], first.id[-12:]
    for name in (digest, digest[:4], f"{begins}-s0"):
        assert json.loads(kdbench("show", name, "--json").out)["id"] == first.id
    assert kdbench("show", begins).sentence == f"unknown name '{begins}'; 2 cells start with it"
    asked = kdbench("run", "--cell", begins)
    assert asked.sentence == f"--cell must name one finished cell, got '{begins}': 2 start with it"
    assert kdbench("show", digest[:3]).sentence.startswith(f"unknown name '{digest[:3]}'")


def test_a_failed_cell_is_shown_with_its_traceback(kdbench: Command, make_cell: MakeCell) -> None:
    cell = make_cell("kd", teacher="resnet14x0.5")
    Store(Path("results")).fail(failure(cell, "TypeError: no", "Traceback:\n  line 7", None))
    assert "    line 7" in kdbench("show", cell.id).out.splitlines()


def test_a_grid_of_ones_own_is_shown(kdbench: Command) -> None:
    Path("mine.yaml").write_text("datasets: digits\nstudents: resnet8x0.25\nmethods: ce\nrecipe: quick\n")
    assert kdbench("show", "mine.yaml").out.startswith("grid: mine.yaml\n")


def test_a_grid_that_is_named_without_its_ending_is_recognised(kdbench: Command) -> None:
    Path("mine.yaml").write_text("datasets: digits\nstudents: resnet8x0.25\nmethods: ce\nrecipe: quick\n")
    assert kdbench("plan", "mine").sentence == "unknown grid 'mine'; did you mean 'mine.yaml'?"


def test_where_nothing_was_submitted_nothing_is_cancelled_and_no_slurm_is_needed(kdbench: Command) -> None:
    answer = kdbench("cancel", "quickstart", "--results", "none")
    assert (answer.code, answer.out) == (0, "No cell of this grid is in the queue.\n")


@pytest.mark.parametrize("words", [[], ["records"]], ids=" ".join)
def test_a_verb_that_lacks_its_verb_is_answered_with_the_help(kdbench: Command, words: list[str]) -> None:
    answer = kdbench(*words)
    assert answer.code == 2
    assert "\nCommands:\n" in answer.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["list"], "Missing argument"),
        (["list", "method"], "'method' is not one of 'methods', 'networks', 'datasets', 'recipes', 'grids'"),
        (["list", "methods", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
        (["list", "methods", "--with", "mine.py"], "mine.py: no such file"),
        (["show", "kdd"], "unknown name 'kdd'; did you mean 'kd'"),
        (["show", "resnet9"], "a resnet's depth must be 6n + 2"),
        (["show", "../x"], "unknown name '../x'; 'kdbench list' with a kind, such as networks, shows all names"),
        (["show", "x.yaml"], "x.yaml: no such file"),
        (["plan"], "Missing argument 'GRID'"),
        (["plan", "quickstart", "again"], "Got unexpected extra argument (again)"),
        (["plan", "quickstrat"], "unknown grid 'quickstrat'; did you mean 'quickstart'?"),
        (["status", "quickstrat"], "unknown grid 'quickstrat'; did you mean 'quickstart'?"),
        (["run"], "run needs a grid or --cell, got neither"),
        (["run", "quickstart", "--cell", "x.json"], "run needs a grid or --cell, got both"),
        (["run", "--cell", "x.json", "--retry", "failed"], "--workers and --retry are for a grid, got --cell"),
        (
            ["run", "--cell", "x.json"],
            "--cell must be a finished cell's id, or a file, got x.json",
        ),
        (["run", "quickstart", "--workers", "0"], "Invalid value for '--workers': 0 is not in the range"),
        (
            ["run", "quickstart", "--retry", "all"],
            "Invalid value for '--retry': 'all' is not one of 'failed', 'outdated'",
        ),
        (["leaderboard"], "results must hold records: run a grid first"),
        (["leaderboard", "quickstart"], "results must hold records of quickstart: run a grid first"),
        (["leaderboard", "quickstrat"], "unknown grid 'quickstrat'; did you mean 'quickstart'?"),
        (["quality", "resnet20"], "Missing option '--dataset'"),
        (["quality", "resnet20", "--dataset", "digts"], "unknown data set 'digts'; did you mean 'digits'?"),
        (["quality", "resnet20", "--dataset", "digits"], "results must hold a trained teacher 'resnet20' of digits"),
        (["quality", "resnet20@1", "--dataset", "digits"], "an imported teacher must be named NETWORK@DIGEST"),
        (["quality", "resnet20", "--dataset", "digits", "--k0", "1"], "Invalid value for '--k0': 1.0 is not in the"),
        (
            ["quality", "resnet20", "--dataset", "digits", "--k0", "nan"],
            "Invalid value for '--k0': it must be a number",
        ),
        (["quality", "resnet20", "--dataset", "digits", "--figure", "q.doc"], "must end in .png, .pdf or .svg"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_refused_in_a_sentence(kdbench: Command, words: list[str], sentence: str) -> None:
    assert sentence in kdbench(*words).sentence
    assert not list(Path().iterdir())  # and leaves nothing behind


@pytest.mark.parametrize("verb", ["plan", "status", "run", "leaderboard"])
def test_results_that_are_a_file_are_refused(kdbench: Command, verb: str) -> None:
    Path("notes.txt").touch()
    sentence = kdbench(verb, "quickstart", "--results", "notes.txt").sentence
    assert sentence == "the results must go to a folder, got the file notes.txt"


def test_a_machine_that_refuses_is_quoted_in_a_sentence(
    kdbench: Command, make_cell: MakeCell, make_record: MakeRecord
) -> None:
    Store(Path("results")).finish(make_record(make_cell()))
    Path("results/leaderboard.md").mkdir()
    assert kdbench("leaderboard").sentence.endswith(": Is a directory")


def test_a_full_disk_is_no_mistake_of_ours(kdbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "planned", lambda *_: Path("/dev/full").write_bytes(b"too much"))
    assert kdbench("plan", "quickstart").sentence == "No space left on device"


def test_what_is_shown_stays_where_it_is(kdbench: Command) -> None:
    Path("results/records").mkdir(parents=True)
    Path("results/leaderboard.json").write_text("{}")
    assert kdbench("show", "../leaderboard").sentence.startswith("unknown name '../leaderboard'")
    assert Path("results/leaderboard.json").exists()


def test_every_kind_of_refusal_is_a_sentence(kdbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def misfit(*_: object) -> None:
        raise Misfit("$.methods", "must be known")

    monkeypatch.setattr(cli, "planned", misfit)
    assert "must be known" in kdbench("plan", "quickstart").sentence


def test_results_that_cannot_be_made_end_a_run_at_once(kdbench: Command) -> None:
    Path("results").symlink_to("nowhere/at/all")
    assert kdbench("run", "quickstart").sentence == "results: File exists"


def test_a_file_that_is_neither_record_nor_cell_is_not_run(kdbench: Command) -> None:
    for name, content in {
        "x.json": b"{}",
        "y.json": b"\xff\x00",
        "text.json": b'{"id": "\xff"}',
        "z.yaml": b"a: [",
        "deep.json": b'{"cell": ' + b"[" * 100_000,
    }.items():
        Path(name).write_bytes(content)
        assert kdbench("run", "--cell", name).sentence.startswith(f"{name} must be a record or a cell: ")


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kdbench", "plan", "quickstart"])
    monkeypatch.setattr(cli, "planned", lambda *_: [][1])
    with pytest.raises(IndexError):
        cli.main()


@pytest.mark.parametrize("words", [["show", "resnet8"], ["show", "resnet8", "--json"]], ids=["people", "scripts"])
def test_a_terminal_that_lacks_a_letter_is_answered(
    kdbench: Command, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    whole = kdbench(*words).out
    with TextIOWrapper(BytesIO(), encoding="ascii", write_through=True) as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert kdbench(*words).code == 0
        shown = terminal.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert shown == (whole if "--json" in words else whole.replace("→", "?").replace("×", "?"))


def test_a_stop_by_the_keyboard_says_how_to_go_on(kdbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "planned", stop)
    answer = kdbench("plan", "quickstart")
    assert (answer.code, answer.err.lstrip()) == (130, "kdbench: stopped; the same command goes on from here\n")


def test_a_cell_that_is_stopped_while_it_is_run_anew_keeps_nothing_and_says_so(
    kdbench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rerun, "run_again", stopped)
    answer = kdbench("run", "--cell", "7f18230f")
    assert (answer.code, answer.err) == (130, "kdbench: stopped; the same command starts again from the beginning\n")


@pytest.mark.parametrize("verb", ["plan", "status"])
def test_a_grid_is_planned_for_people_and_for_scripts(kdbench: Command, verb: str) -> None:
    assert json.loads(kdbench(verb, "quickstart", "--json").out)["counts"]["missing"] == 31
    assert kdbench(verb, "quickstart").out.startswith("quickstart: 30 cells and 1 teacher: 31 missing\n")


def test_a_plan_tells_which_data_are_not_there_yet(kdbench: Command) -> None:
    missing = "cifar100 is missing: no cifar100.npz or cifar-100-python/* in mine"
    plan = "plan", "cifar100-short", "--data", "mine"
    assert kdbench(*plan).out.splitlines()[-1] == missing
    assert json.loads(kdbench(*plan, "--json").out)["data_not_there"] == [missing]
    Path("mine").mkdir()
    Path("mine/cifar100.npz").touch()
    assert json.loads(kdbench(*plan, "--json").out)["data_not_there"] == []


def test_a_damaged_record_is_reported_beside_the_answer(
    kdbench: Command, make_cell: MakeCell, make_record: MakeRecord
) -> None:
    record = make_record(make_cell())
    Store(Path("results")).finish(record)
    Path(f"results/records/{record.id}.json").write_text("{")
    answer = kdbench("plan", "quickstart", "--json")
    assert json.loads(answer.out)["counts"]["missing"] == 31
    assert answer.err.startswith(f"kdbench: results/records/{record.id}.json is set aside ")


def test_the_folder_of_results_may_come_from_the_environment(
    kdbench: Command, monkeypatch: pytest.MonkeyPatch, make_cell: MakeCell, make_record: MakeRecord
) -> None:
    Store(Path("mine")).finish(make_record(make_cell()))
    monkeypatch.setenv("KDBENCH_RESULTS", "mine")
    assert kdbench("leaderboard").out == Path("mine/leaderboard.md").read_text() + "\n"
    assert Path("mine/leaderboard.csv").exists()


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o"), ("zsh", "#compdef kdbench"), ("fish", "complete")]
)
def test_a_shell_is_given_its_script(kdbench: Command, shell: str, sign: str) -> None:
    script = kdbench("completion", shell).out
    assert sign in script and "_KDBENCH_COMPLETE" in script


@pytest.mark.parametrize(
    ("verb", "begun", "names"), [("plan", "quick", ["quickstart"]), ("reproduce", "cl", ["claims", "clkd"])]
)
def test_the_shell_completes_the_names_of_grids_and_tables(verb: str, begun: str, names: list[str]) -> None:
    from click.shell_completion import ShellComplete

    completion = ShellComplete(cli.app, {}, "kdbench", "_KDBENCH_COMPLETE")
    assert [item.value for item in completion.get_completions([verb], begun)] == names
