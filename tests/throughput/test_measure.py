"""How a pace is computed, that it is that of the real loop, and how the verb keeps records."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from kdbench.benchmark import extensions, networks
from kdbench.benchmark.data import load
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.environment import environment
from kdbench.benchmark.throughput import grid as of_grid
from kdbench.benchmark.throughput import measure as measuring
from kdbench.benchmark.throughput import peak
from kdbench.benchmark.throughput.measure import Clock, learners, measure, memory
from kdbench.benchmark.throughput.record import Throughput, folder, keep, measured, records
from kdbench.benchmark.throughput.table import page
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.loop import Live
from tests.conftest import CPU
from tests.throughput.conftest import MakeThroughput

Command, MakeCell = Callable[..., Any], Callable[..., Cell]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of one step, and a device with a billion operations a second."""
    monkeypatch.setattr(measuring, "SECONDS", 1e-9)
    monkeypatch.setattr(measuring, "peak_flops", lambda device, precision: 1e9)


# -- the clock --------------------------------------------------------------------------------------------------------


def test_a_pace_is_that_of_windows_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five slow steps, one step that is timed to choose the window, then windows of five. The first does not count."""
    now, taken = 0.0, []

    def steps() -> Iterator[Live]:
        nonlocal now
        for step in range(1000):
            now += 10.0 if step < 5 else 3.0 if step < 11 else 0.2 if step == 13 else 0.1
            taken.append(step)
            yield Live("main", 1, 1, step, 1000)

    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(measuring, "SECONDS", 15.0)
    clock = Clock(steps(), CPU)
    assert len(taken) == 5 + 1 + 5 and clock.peak_memory > 0
    assert [clock.window(), clock.window()] == pytest.approx([0.12, 0.1])


def test_a_cost_is_of_times_that_were_taken_in_turn(
    make_cell: MakeCell, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that keeps getting slower, where a step of kd takes twice as long as one on labels only."""
    now, load = 0.0, 1.0
    real = measuring.Learners.steps

    def slower(taught: measuring.Learners, *rest: Any) -> Iterator[Live]:
        nonlocal now, load
        for live in real(taught, *rest):
            load *= 1.05
            now += load * (2 if taught.teacher else 1)
            yield live

    monkeypatch.setattr(measuring.Learners, "steps", slower)
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: now))
    record = measure(make_cell("kd", teacher="resnet14x0.5"), CPU, Path(), tmp_path)
    assert record.cold and record.remembered
    for pace in (record.live, record.cold, record.remembered):
        assert pace.cost == pytest.approx(2 / 1.05, abs=1e-4)
    assert measure(make_cell("ce"), CPU, Path(), tmp_path).live.cost == 1


@pytest.mark.parametrize(
    ("side", "channels", "best"),
    [(64, 1, 2 * 64**3), (2, 4, 2 * 16 * 14 * 14 * 4 * 4 * 9)],
    ids=["product", "convolution"],
)
def test_the_device_s_own_rate_is_the_better_of_products_and_convolutions(
    monkeypatch: pytest.MonkeyPatch, side: int, channels: int, best: int
) -> None:
    """Each reading of this clock is 1/128 s later: 39 calls are chosen to fill 0.1 s, at 1/384 s each."""
    looks = iter(range(10**6))
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: next(looks) / 128))
    monkeypatch.setattr(peak, "SIDE", side)
    monkeypatch.setattr(peak, "CHANNELS", channels)
    assert peak.peak_flops.__wrapped__(CPU.device, "bf16") == pytest.approx(best * 39 * 128)


# -- a cell -----------------------------------------------------------------------------------------------------------


def test_a_record_says_what_was_measured(make_cell: MakeCell, quick: None, tmp_path: Path) -> None:
    cell = make_cell("crd", teacher="resnet14x0.5", seed=7)
    record = measure(cell, CPU, Path(), tmp_path)
    student, teacher = (networks.form(name, 10, (1, 8, 8)) for name in ("resnet8x0.25", "resnet14x0.5"))
    assert (record.student_macs, record.teacher_macs) == (student.macs, teacher.macs)
    assert (record.pair, record.method, record.params) == (cell.pair, "crd", cell.params)
    assert (record.batch, record.precision, record.recipe, record.epochs) == (20, "fp32", "tiny", 2)
    assert record.environment.key == environment(CPU, "fp32").key
    assert record.method_parameters > 2 * 300 * 128  # two banks of embeddings and the projectors
    assert record.student_parameters == record.deployed_parameters == 5142

    live, seconds = record.live, record.live.step_ms / 1000
    assert sorted(live.windows_ms)[len(live.windows_ms) // 2] == live.step_ms
    assert live.images_per_second == pytest.approx(20 / seconds, rel=1e-3)
    # Forward and backward (twice the cost) through the student, forward through the teacher.
    assert live.tflops == pytest.approx(2 * 20 * (3 * student.macs + teacher.macs) / seconds / 1e12, abs=1e-6)
    assert record.peak_tflops == 1e-3


def test_a_teacher_that_is_not_asked_counts_for_nothing(make_cell: MakeCell, quick: None, tmp_path: Path) -> None:
    live = measure(make_cell("fsp", teacher="resnet14x0.5"), CPU, Path(), tmp_path).live
    student = networks.form("resnet8x0.25", 10, (1, 8, 8))
    assert live.tflops == pytest.approx(2 * 20 * 3 * student.macs / (live.step_ms / 1000) / 1e12, abs=1e-6)


def test_what_a_run_would_not_compile_is_measured_as_it_is(
    make_cell: MakeCell, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs second derivatives, and the environment shows it. Training on labels only, its reference, compiles."""
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda step, **_: compiled.append(step) or step)
    record = measure(make_cell("jacobian", teacher="resnet14x0.5"), replace(CPU, compile="on"), Path(), tmp_path)
    assert record.environment.key == environment(CPU, "fp32").key != environment(replace(CPU, compile="on"), "fp32").key
    assert len(compiled) == 1


@pytest.mark.parametrize(("method", "can"), [("kd", True), ("crd", True), ("fitnet", False), ("ce", False)])
def test_a_memory_is_measured_empty_and_full_where_there_can_be_one(
    make_cell: MakeCell, quick: None, tmp_path: Path, method: str, can: bool
) -> None:
    record = measure(make_cell(method, teacher=None if method == "ce" else "resnet14x0.5"), CPU, Path(), tmp_path)
    assert (record.cold is not None, record.remembered is not None, record.views) == (can, can, 9)
    assert list(tmp_path.iterdir()) == []


def test_a_memory_is_not_called_empty_that_a_short_epoch_has_filled(
    make_cell: MakeCell, quick: None, tmp_path: Path
) -> None:
    cell = make_cell("kd", teacher="resnet14x0.5")
    cell = msgspec.structs.replace(cell, recipe=msgspec.structs.replace(cell.training, batch=150, augment=False))
    record = measure(cell, CPU, Path(), tmp_path)
    assert (record.views, record.cold, record.amortised()) == (1, None, None)
    assert record.remembered and " – " in page([record])


def test_who_comes_second_finds_every_answer(make_cell: MakeCell, tmp_path: Path) -> None:
    dataset, cell = load("digits", Path()), make_cell("kd", teacher="resnet14x0.5")
    shares = []
    for _ in range(2):
        taught = learners(cell, dataset, CPU)
        answers = memory(taught, dataset, cell.training, tmp_path)
        assert answers is not None
        list(islice(taught.steps(dataset, cell.training, CPU, answers), 10))
        shares.append(answers.share)
    assert shares == [0, 1]


def test_the_main_phase_and_those_before_it_are_measured_one_by_one_and_without_an_end(make_cell: MakeCell) -> None:
    dataset = load("digits", Path())
    cell = make_cell("ab", teacher="resnet14x0.5", params={"initial_epochs": 1})
    main = learners(cell, dataset, CPU)
    (phase,) = main.phases
    for taught, name in ((main, "main"), (learners(cell, dataset, CPU, phase), "ab")):
        seen = list(islice(taught.steps(dataset, cell.training, CPU), 31))
        assert {live.phase for live in seen} == {name}
        assert [live.epoch for live in seen] == [1] * 15 + [2] * 15 + [3]


def test_what_phases_before_the_main_one_cost_is_shared_out_over_its_epochs(
    make_cell: MakeCell, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs with steps three times as long as on labels only, before two with steps of equal length."""
    now = 0.0
    real = measuring.Learners.steps

    def timed(taught: measuring.Learners, *rest: Any) -> Iterator[Live]:
        nonlocal now
        for live in real(taught, *rest):
            now += 3 if live.phase == "fsp" else 1
            yield live

    monkeypatch.setattr(measuring.Learners, "steps", timed)
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: now))
    cell = make_cell("fsp", teacher="resnet14x0.5", params={"initial_epochs": 4})
    record = measure(cell, CPU, Path(), tmp_path)
    assert (record.epochs, record.live.cost, record.initial) == (2, 1, 6)
    assert measure(make_cell("kd", teacher="resnet14x0.5"), CPU, Path(), tmp_path).initial == 0


def test_cells_that_differ_in_no_speed_are_one(make_cell: MakeCell) -> None:
    def id_of(*what: Any, **how: Any) -> str:
        return measured(make_cell(*what, **how)).id

    other = make_cell(student="resnet14x0.5", seed=3, protocol="other", recipe=make_cell().training.for_network("x"))
    one = id_of("kd", "resnet14x0.5")
    assert one == id_of("kd", "resnet14x0.5", seed=4) == id_of("kd", other, seed=1)
    assert one != id_of("kd", "resnet14x0.5", params={"temperature": 2.0}) != id_of("kd", "resnet8")


# -- the verb ---------------------------------------------------------------------------------------------------------

GRID = """\
datasets: digits
pairs: resnet14x0.5 -> resnet8x0.25
methods: [ce, kd]
recipe: quick
seeds: 2
"""


MINE = """
from kdbench.methods.method import METHODS, Method

@METHODS.register("mine")
class Mine(Method):
    source = "logits"

    def losses(self, student, teacher, batch):
        return {"mine": (student.logits - teacher.logits).square().mean()}
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(GRID)
    return "grid.yaml"


@pytest.fixture
def never_slow(monkeypatch: pytest.MonkeyPatch, make: MakeThroughput) -> list[str]:
    """The list of measured methods, all equally fast."""
    asked: list[str] = []

    def pretend(cell: Cell, engine: Engine, data_folder: Path, scratch: Path) -> Throughput:
        asked.append(cell.method)
        return make(cell.method, id=cell.id, params=cell.params, environment=environment(engine, "fp32").key)

    monkeypatch.setattr(of_grid, "by_itself", pretend)
    return asked


def test_a_grid_is_measured_once_and_answers_with_its_table(
    kdbench: Command, grid: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_grid, "by_itself", measure)
    first = kdbench("throughput", grid)
    assert first.code == 0
    found = records(Path("results"))
    assert [(record.method, record.pair) for record in found] == [
        ("kd", "resnet14x0.5 → resnet8x0.25"), ("ce", "resnet8x0.25")
    ]  # fmt: skip
    assert first.out == page(found) + "\n"
    assert next(folder(Path("results")).glob("*/throughput.md")).read_text() == page(found)
    assert first.err.count("measured  digits-") == 2

    again = kdbench("throughput", grid)
    assert (again.code, again.out, again.err) == (0, first.out, "")


def test_a_cell_is_measured_in_a_process_of_its_own(
    make_cell: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the caller's threads and files, but without this process's memory."""
    (tmp_path / "mine.py").write_text(MINE)
    extensions.load(tmp_path / "mine.py")
    ballast = torch.ones(2**28)
    record = of_grid.by_itself(make_cell("mine", teacher="resnet14x0.5"), CPU, Path(), tmp_path)
    assert record.method == "mine" and record.environment.arithmetic["threads"] == 1
    assert record.live.peak_memory_mb < ballast.nbytes / 2**20


ENDLESS = MINE.replace(
    "losses(self, student, teacher, batch):",
    """losses(self, student, teacher, batch):
        Path("begun").touch()
        time.sleep(600)""",
).replace("\n", "\nimport time\nfrom pathlib import Path\n", 1)
STOPPED = 130, "kdbench: stopped; the same command goes on from here"


@pytest.mark.parametrize(
    ("stop", "answer"),
    [
        (lambda process: os.killpg(process.pid, signal.SIGINT), STOPPED),
        (subprocess.Popen.terminate, STOPPED),
        (subprocess.Popen.kill, None),
    ],
    ids=["ctrl-c", "sigterm", "sigkill"],
)
def test_however_it_is_stopped_nothing_goes_on(
    command: Callable[..., Any], stop: Callable[[subprocess.Popen[str]], None], answer: tuple[int, str] | None
) -> None:
    mine = command(grid_yaml=GRID.replace("[ce, kd]", "mine") + "files: mine.py\n", mine_py=ENDLESS)
    process = mine.start("grid.yaml", verb="throughput")
    mine.wait((mine.folder / "begun").exists)
    stop(process)
    process.wait()
    mine.wait(lambda: not mine.alive(process))
    if answer:
        assert (process.returncode, process.communicate()[1].strip()) == answer
        assert list(mine.folder.glob("results/work/*")) == []


def test_what_has_a_record_in_this_environment_is_measured_anew_only_if_asked(
    kdbench: Command, grid: str, never_slow: list[str]
) -> None:
    kdbench("throughput", grid)
    kdbench("throughput", grid)
    assert never_slow == ["ce", "kd"]
    kdbench("throughput", grid, "--again")
    assert never_slow == ["ce", "kd"] * 2
    for record in records(Path("results")):
        elsewhere = msgspec.structs.replace(record.environment, key="elsewhere")
        keep(msgspec.structs.replace(record, environment=elsewhere), Path("results"))
        (folder(Path("results")) / record.environment.key / f"{record.id}.json").unlink()
    kdbench("throughput", grid)
    assert never_slow == ["ce", "kd"] * 3


def test_scripts_are_answered_with_the_records_alone(kdbench: Command, grid: str, never_slow: list[str]) -> None:
    answer = kdbench("throughput", grid, "--json")
    assert json.loads(answer.out) == msgspec.to_builtins(records(Path("results")))


def test_a_cell_that_fails_leaves_the_others_alone(
    kdbench: Command, grid: str, never_slow: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = of_grid.by_itself

    def burst(cell: Cell, *rest: Any) -> Throughput:
        if cell.method == "ce":
            raise torch.OutOfMemoryError("2 GiB")
        return kind(cell, *rest)

    monkeypatch.setattr(of_grid, "by_itself", burst)
    answer = kdbench("throughput", grid)
    assert answer.code == 1
    assert "failed  digits-resnet8x0.25-ce" in answer.err
    assert "ran out of memory: 2 GiB" in " ".join(answer.err.split())
    assert [record.method for record in records(Path("results"))] == ["kd"]


def test_a_cell_that_cannot_work_is_named_and_a_grid_of_them_is_refused(
    kdbench: Command, grid: str, never_slow: list[str]
) -> None:
    impossible = "feature_only: {teacher_depths: [3, 2]}"
    Path(grid).write_text(GRID.replace("[ce, kd]", f"[ce, {impossible}]"))
    answer = kdbench("throughput", grid)
    assert (answer.code, never_slow) == (0, ["ce"])
    assert "cannot work: feature_only: teacher_depths must be layers" in answer.err
    Path(grid).write_text(GRID + "world: 2\n")
    assert "cannot work: training with several processes is not measured" in kdbench("throughput", grid).sentence
    Path(grid).write_text(GRID.replace("[ce, kd]", f"[{impossible}]"))
    assert "no cell can work" in kdbench("throughput", grid).sentence
