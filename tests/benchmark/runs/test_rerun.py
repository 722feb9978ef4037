"""One cell anew: the same bits or others, and a teacher whose weights are gone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace

from kdbench.benchmark.records import lease
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import trained
from kdbench.benchmark.runs import rerun
from kdbench.benchmark.runs.rerun import run_again
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.recipe import Recipe
from kdbench.refusal import Refusal

Ran = tuple[Store, Cell, Record]


@pytest.fixture
def ran(make_cell: Callable[..., Any], tmp_path: Path) -> Iterator[Ran]:
    """A student and its teacher, with the student's record, made by one thread where there are two by now."""
    store, cell = Store(tmp_path), make_cell("kd", teacher="resnet8")
    for one in (cell.teacher, cell):
        scratch = Checkpoints(tmp_path / "scratch" / one.id)
        record, weights = run(one, store, Engine(torch.device("cpu")), Path(), scratch)
        store.finish(record, weights)
    torch.set_num_threads(2)
    yield store, cell, record
    torch.set_num_threads(1)


def seen(store: Store) -> dict[Path, int]:
    """All files, and when they were written; but for what a teacher has said, which whoever hears it may add to."""
    files = (file for file in store.folder.rglob("*") if file.is_file())
    return {file: file.stat().st_mtime_ns for file in files if ".memory" not in str(file)}


def test_a_rerun_tells_the_same_bits_from_others_and_leaves_the_store_as_it_was(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, cell, record = ran
    before = seen(store)
    declared = tmp_path / "cell.json"
    declared.write_bytes(msgspec.json.encode(cell))
    for name in (cell.teacher.id, str(store.records_folder / f"{cell.id}.json"), str(declared)):
        assert run_again(name, tmp_path, Path()) == 0
        assert capsys.readouterr().out.endswith("The same bits as the record.\n")
        assert torch.get_num_threads() == 2

    declared.unlink()
    others = tmp_path / "others.json"
    record.result.top1 += 1e-9
    teachers = record.result.teacher_weights
    others.write_bytes(msgspec.json.encode(record))
    assert run_again(str(others), tmp_path, Path()) == 1
    assert capsys.readouterr().out.endswith("in the same environment.\n")
    record.result.teacher_weights = "others"
    others.write_bytes(msgspec.json.encode(record))
    assert run_again(str(others), tmp_path, Path()) == 0
    assert capsys.readouterr().out.endswith("as expected: the teacher's weights differ.\n")
    record.result.teacher_weights, record.environment.key = teachers, "another"
    others.write_bytes(msgspec.json.encode(record))
    assert run_again(str(others), tmp_path, Path()) == 0
    assert capsys.readouterr().out.endswith("as expected: the environment differs.\n")
    record.data = "old older"
    others.write_bytes(msgspec.json.encode(record))
    assert run_again(str(others), tmp_path, Path()) == 0
    assert capsys.readouterr().out.endswith("as expected: the data differ.\n")
    others.unlink()
    assert seen(store) == before


def test_a_teacher_whose_weights_are_gone_is_trained_first_and_they_are_kept(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    store, cell, _ = ran
    file, before = store.weights(cell.teacher), store.record(cell.teacher.id)
    weights = file.read_bytes()
    file.unlink()
    assert run_again(cell.id, store.folder, Path()) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{cell.teacher.id}, its teacher, is trained first: its weights are missing\n")
    assert out.endswith("The same bits as the record.\n")
    assert (file.read_bytes(), store.record(cell.teacher.id)) == (weights, before)


def test_a_teacher_that_is_run_again_has_its_weights_back(ran: Ran) -> None:
    store, cell, _ = ran
    store.weights(cell.teacher).unlink()
    assert run_again(cell.teacher.id, store.folder, Path()) == 0
    trained(cell.teacher, store)


def test_a_record_of_somebody_else_whose_bits_come_out_leaves_ours_and_its_weights_as_they_are(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, cell, _ = ran
    ours = store.record(cell.teacher.id)
    assert ours is not None
    theirs = tmp_path / "theirs.json"
    theirs.write_bytes(msgspec.json.encode(ours))
    ours.result.weights = "of another processor"
    store.finish(ours, b"of another processor")
    before = seen(store)
    assert run_again(str(theirs), tmp_path, Path()) == 0
    assert capsys.readouterr().out.endswith("The same bits as the record.\n")
    assert seen(store) == before


def test_a_teacher_that_comes_out_otherwise_teaches_this_once_and_leaves_the_store_to_the_others_pupils(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    store, cell, record = ran
    taught = store.record(cell.teacher.id)
    assert taught is not None
    taught.result.weights = record.result.teacher_weights = "another machine's"
    store.finish(taught)
    store.finish(record)
    store.weights(cell.teacher).unlink()
    before = seen(store)
    assert run_again(cell.id, store.folder, Path()) == 0
    assert capsys.readouterr().out.endswith("as expected: the teacher's weights differ.\n")
    assert seen(store) == before


def test_who_has_a_record_alone_gets_no_teacher_but_the_one_that_it_speaks_of(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher is trained in the student's manner, and by more threads it would not come out the same."""
    _, cell, record = ran
    fresh, file = Store(tmp_path / "fresh"), tmp_path / "record.json"
    file.write_bytes(msgspec.json.encode(record))
    assert run_again(str(file), fresh.folder, Path()) == 0
    assert capsys.readouterr().out.endswith("The same bits as the record.\n")
    trained(cell.teacher, fresh)
    assert fresh.record(cell.id) is None

    other = Store(tmp_path / "other")
    record.result.teacher_weights = "another machine's"
    file.write_bytes(msgspec.json.encode(record))
    assert run_again(str(file), other.folder, Path()) == 0
    assert capsys.readouterr().out.endswith("as expected: the teacher's weights differ.\n")
    assert not other.records() and not other.weights(cell.teacher).exists()


def test_a_teacher_that_another_run_trains_is_left_to_it(ran: Ran) -> None:
    store, cell, _ = ran
    store.weights(cell.teacher).unlink()
    lease = Lease.take(store.work(cell.teacher.id))
    assert lease
    with lease, pytest.raises(Refusal, match=r"but another process is training it$"):
        run_again(cell.id, store.folder, Path())


def test_a_cell_without_a_record_is_nobody_elses_while_it_runs(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell, _ = ran
    fresh = replace(cell, seed=7)
    declared = tmp_path / "cell.json"
    declared.write_bytes(msgspec.json.encode(fresh))
    held = []
    anew = rerun._anew
    monkeypatch.setattr(rerun, "_anew", lambda *asked: (held.append(lease.held(store.work(fresh.id))), anew(*asked))[1])
    assert run_again(str(declared), tmp_path, Path()) == 0
    assert held == [True] and store.record(fresh.id)


def test_what_fails_is_told_in_a_sentence(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    store, cell, _ = ran

    def broken(*_: Any) -> Any:
        raise RuntimeError("the sizes of the tensors must match")

    monkeypatch.setattr(rerun, "run", broken)
    with pytest.raises(Refusal, match=rf"^{cell.id} failed: RuntimeError: the sizes of the tensors must match$"):
        run_again(cell.id, store.folder, Path())


def test_who_has_a_cell_alone_gets_the_record_of_its_teacher_too(ran: Ran, tmp_path: Path) -> None:
    _, cell, _ = ran
    declared = tmp_path / "cell.json"
    declared.write_bytes(msgspec.json.encode(cell))
    fresh = Store(tmp_path / "fresh")
    assert run_again(str(declared), fresh.folder, Path()) == 0
    _, teacher = trained(cell.teacher, fresh)
    record = fresh.record(cell.id)
    assert record is not None and record.result.teacher_weights == teacher.result.weights


@pytest.mark.slow
def test_several_processes_train_a_cell_and_before_it_its_teacher(
    make_cell: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerun, "places", lambda *_: 2)  # this machine may have one core
    cell = make_cell("kd", teacher=make_cell(student="resnet8", world=2), world=2)
    declared = tmp_path / "cell.json"
    declared.write_bytes(msgspec.json.encode(cell))
    assert run_again(str(declared), tmp_path, Path()) == 0
    assert Store(tmp_path).records().keys() == {cell.id, cell.teacher.id}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"params": {}}, "must hold a record, or a cell as grids make it, got another cell: declare it in a grid"),
        ({"protocol": ""}, "must hold a record, or a cell as grids make it"),
        ({"recipe": Recipe(epochs=1, lr_of={"resnet8": 0.1})}, "must hold a record, or a cell as grids make it"),
        ({"method": "ce", "params": {}}, "must hold a record, or a cell as grids make it"),  # and a teacher
        ({"teacher": None}, "must name the teacher that 'kd' learns from, got none"),
        ({"params": {"temprature": 2.0}}, "kd has no parameter 'temprature'; did you mean 'temperature'"),
    ],
)
def test_a_cell_that_no_grid_would_make_is_not_run(
    make_cell: Callable[..., Any], tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    declared = tmp_path / "cell.json"
    declared.write_bytes(msgspec.json.encode(replace(make_cell("kd", teacher="resnet8"), **change)))
    with pytest.raises(Refusal, match=why):
        run_again(str(declared), tmp_path / "results", Path())
    assert not (tmp_path / "results").exists()


def test_a_cell_whose_teacher_no_grid_would_make_is_not_run(make_cell: Callable[..., Any], tmp_path: Path) -> None:
    declared = tmp_path / "cell.json"
    declared.write_bytes(msgspec.json.encode(make_cell("kd", teacher=make_cell(student="resnet8", protocol=""))))
    with pytest.raises(Refusal, match="must hold a record, or a cell as grids make it"):
        run_again(str(declared), tmp_path / "results", Path())
    assert not (tmp_path / "results").exists()


def test_a_record_that_was_changed_by_hand_is_not_run(ran: Ran, tmp_path: Path) -> None:
    _, cell, record = ran
    other = tmp_path / "their.json"
    other.write_bytes(msgspec.json.encode(replace(record, cell=replace(cell, seed=7))))
    with pytest.raises(Refusal, match=f"must hold a record with its cell's id, .*-s7-.*, got {cell.id}$"):
        run_again(str(other), tmp_path, Path())
