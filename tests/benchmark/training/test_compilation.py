"""Steps that torch has compiled: the same run, the same bits again, and a way out where it cannot."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from kdbench.benchmark.records.record import Record, same_bits
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.bars import Bars
from kdbench.benchmark.runs.launcher import Launcher
from kdbench.benchmark.runs.rerun import run_again
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.loop import Live
from kdbench.methods.method import Needs
from kdbench.refusal import Refusal

Make = Callable[..., Any]
CPU = Engine(torch.device("cpu"))
COMPILED = replace(CPU, compile="on")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compiles nothing, and every run is long enough to ask for it."""
    from torch._dynamo.exc import TorchDynamoException

    def refuse(batch: object, task: bool, sizes: object) -> NoReturn:
        raise TorchDynamoException("there is no compiler")

    def settled(self: Engine, steps: int, needs: Needs, world: int) -> Engine:
        return replace(self, compile="off" if self.compile == "off" else "on")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: refuse)
    monkeypatch.setattr(Engine, "settled", settled)


def test_where_torch_cannot_compile_a_run_begins_anew_without_and_says_so(
    refused: None, make_cell: Make, store: Store, tmp_path: Path
) -> None:
    cell = make_cell()
    with pytest.warns(UserWarning, match=r"begins anew, not compiled: there is no compiler"):
        fallen, _ = run(cell, store, CPU, Path(), Checkpoints(tmp_path / "a"))
    plain, _ = run(cell, store, replace(CPU, compile="off"), Path(), Checkpoints(tmp_path / "b"))
    assert same_bits(fallen.result, plain.result)
    assert fallen.environment.key == plain.environment.key


def test_who_goes_on_with_such_a_run_does_not_begin_anew(
    refused: None, make_cell: Make, store: Store, tmp_path: Path
) -> None:
    def kill(live: Live) -> None:
        if (live.epoch, live.step) == (2, 2):
            raise Killed

    with pytest.warns(UserWarning, match="begins anew"), pytest.raises(Killed):
        run(make_cell(), store, CPU, Path(), Checkpoints(tmp_path, every=0), kill)
    seen: list[Live] = []
    with warnings.catch_warnings(action="error"):
        run(make_cell(), store, CPU, Path(), Checkpoints(tmp_path), seen.append)
    assert (seen[0].epoch, seen[0].step) == (2, 3)


def test_who_insists_is_told_why_it_cannot_be(refused: None, make_cell: Make, store: Store, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"^compile must be auto or off for .*: there is no compiler$"):
        run(make_cell(), store, COMPILED, Path(), Checkpoints(tmp_path))


def test_a_record_is_run_again_in_its_manner_unless_another_is_asked_for(
    refused: None, make_cell: Make, store: Store, tmp_path: Path
) -> None:
    store.finish(*run(cell := make_cell(), store, replace(CPU, compile="off"), Path(), Checkpoints(tmp_path)))
    assert run_again(cell.id, store.folder, Path()) == 0
    with pytest.raises(Refusal, match="torch cannot compile it"):
        run_again(cell.id, store.folder, Path(), compile="on")


def test_on_a_cpu_the_compiler_is_told_to_leave_convolutions_as_they_lie(
    monkeypatch: pytest.MonkeyPatch, make_cell: Make, store: Store, tmp_path: Path
) -> None:
    """Turned to channels last, narrow ones write beyond their buffers (``overruns``)."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda step, **how: told.append(how) or step)
    run(make_cell(), store, COMPILED, Path(), Checkpoints(tmp_path))
    assert [how["options"] for how in told] == [{"layout_optimization": False}]


def test_workers_compile_as_their_launcher_was_told(store: Store) -> None:
    assert [engine.compile for engine in Launcher(store, Path(), 2, Bars(), compile="on").engines] == ["on", "on"]


@pytest.mark.slow
def test_a_backward_pass_that_cannot_be_compiled_is_met_as_a_forward_pass_is(
    make_cell: Make, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself torch compiles it within ``.backward()``, where nobody expects it to fail."""
    from torch._inductor import compile_fx

    def refuse(*graph: Any, is_backward: bool = False, **how: Any) -> Any:
        if is_backward:
            raise RuntimeError("no backward pass")
        return compiled(*graph, is_backward=is_backward, **how)

    compiled = compile_fx.fx_codegen_and_compile
    monkeypatch.setattr(compile_fx, "fx_codegen_and_compile", refuse)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing is compiled already
    with pytest.raises(Refusal, match=r"torch cannot compile it: .*no backward pass"):
        run(make_cell(), store, COMPILED, Path(), Checkpoints(tmp_path))


class Killed(BaseException): ...


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run_and_ends_with_the_same_bits_when_it_was_killed(
    make_cell: Make, store: Store, tmp_path: Path
) -> None:
    store.finish(*run(make_cell(student="resnet14x0.5"), store, CPU, Path(), Checkpoints(tmp_path / "teacher")))
    cell = make_cell("kd", teacher="resnet14x0.5")

    def kill(live: Live) -> None:
        if (live.epoch, live.step) == (2, 4):
            raise Killed

    def once(engine: Engine, name: str, **how: Any) -> Record:
        with warnings.catch_warnings(action="ignore"):  # torch's own
            return run(cell, store, engine, Path(), Checkpoints(tmp_path / name, every=0), **how)[0]

    whole, eager = once(COMPILED, "whole"), once(CPU, "eager")
    with pytest.raises(Killed):
        once(COMPILED, "killed", watch=kill)
    assert same_bits(once(COMPILED, "killed").result, whole.result)
    assert whole.environment.arithmetic == eager.environment.arithmetic | {"compile": "default"}
    assert not same_bits(whole.result, eager.result)  # it was compiled
    assert whole.result.curves.terms["kd"][0] == pytest.approx(eager.result.curves.terms["kd"][0], rel=1e-2)

    store.finish(whole, None)
    assert run_again(cell.id, store.folder, Path()) == 0
