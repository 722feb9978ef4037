"""Cells that share a teacher's memory: the same numbers whoever came first, and a plan that says what it spares."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from kdbench.benchmark.leaderboard.frame import frame
from kdbench.benchmark.leaderboard.table import series
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.plan import Plan, plan
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import local
from kdbench.benchmark.runs import run as run_module
from kdbench.benchmark.runs.launcher import Launcher
from kdbench.benchmark.runs.rerun import run_again
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.runs.summary import of_plan, plan_text
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.loop import Live

CPU = Engine(torch.device("cpu"))
Make = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, make_cell: Make) -> Store:
    """With a teacher."""
    store = Store(tmp_path / "results")
    store.finish(*trained(make_cell(student="resnet8"), store))
    return store


def trained(cell: Cell, store: Store, engine: Engine = CPU, **how: Any) -> tuple[Record, bytes | None]:
    folder = how.pop("folder", store.folder / f"scratch{len(list(store.folder.glob('scratch*')))}")
    folder.mkdir(parents=True, exist_ok=True)
    return run(cell, store, engine, Path(), Checkpoints(folder, how.pop("every", 30)), **how)


def forget(store: Store) -> None:
    for folder in (store.folder / "teachers").glob("*.memory"):
        shutil.rmtree(folder)


def test_cells_have_the_same_bits_whatever_was_remembered_before(make_cell: Make, store: Store) -> None:
    kd = make_cell("kd", teacher="resnet8")
    cold, _ = trained(kd, store)
    warm, _ = trained(kd, store)
    assert warm.result == cold.result
    assert cold.cost.remembered < 0.5 and warm.cost.remembered == 1

    rkd = make_cell("rkd", teacher="resnet8")  # finds the logits there, and not the embeddings
    after, _ = trained(rkd, store)
    forget(store)
    alone, _ = trained(rkd, store)
    assert alone.result == after.result
    assert trained(make_cell("dist", teacher="resnet8"), store)[0].cost.remembered == 1

    live, _ = trained(kd, store, replace(CPU, live_teacher=True))
    assert live.cost.remembered == 0
    assert live.result.weights != cold.result.weights  # rounded otherwise,
    assert live.environment.key != cold.environment.key == warm.environment.key  # and so it says


def test_a_cell_that_was_killed_and_goes_on_ends_with_the_same_bits(make_cell: Make, store: Store) -> None:
    class Killed(BaseException):
        pass

    def kill(live: Live) -> None:
        if (live.epoch, live.step) == (2, 4):
            raise Killed

    kd = make_cell("kd", teacher="resnet8")
    right, _ = trained(kd, store)
    forget(store)
    folder = store.folder / "killed"
    with pytest.raises(Killed):
        trained(kd, store, folder=folder, every=0, watch=kill)
    assert trained(kd, store, folder=folder)[0].result == right.result


def test_a_cell_that_reads_features_asks_live_and_keeps_nothing(make_cell: Make, store: Store) -> None:
    record, _ = trained(make_cell("at", teacher="resnet8"), store)
    assert record.cost.remembered == 0
    assert "teacher" not in record.environment.arithmetic
    assert not list((store.folder / "teachers").glob("*.memory"))


def test_above_the_limit_there_is_no_memory(make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0.00005")  # 300 images, 9 views, 10 classes: 54,000 bytes
    trained(make_cell("kd", teacher="resnet8"), store)
    assert not list((store.folder / "teachers").glob("*.memory"))


def test_answers_of_another_training_of_the_teacher_are_not_believed(make_cell: Make, store: Store) -> None:
    kd = make_cell("kd", teacher="resnet8")
    trained(kd, store)
    (old,) = store.memories(kd.teacher.id).iterdir()
    record = store.record(kd.teacher.id)
    assert record
    record.result.weights = "another"
    assert store.memory(record).name != old.name
    store.finish(record, b"other weights")
    assert not old.exists()


@pytest.mark.parametrize("change", ["images", "order", "precision", "arithmetic", "crop"])
def test_whatever_changes_an_answer_has_a_memory_of_its_own(
    make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    kd = make_cell("kd", teacher="resnet8")
    trained(kd, store)
    data, recipe = run_module.load_data(kd.dataset, Path()), kd.recipe
    match change:
        case "images":  # under the same name, with the same labels
            data = replace(data, train=replace(data.train, images=255 - data.train.images))
        case "order":
            data = replace(data, train=data.train[torch.arange(299, -1, -1)])
        case "crop":
            data = replace(data, crop=0)
        case "precision":
            recipe = msgspec.structs.replace(recipe, precision="bf16")
        case "arithmetic":
            monkeypatch.setattr(Engine, "arithmetic", lambda self, precision: {"device": "another"})
    monkeypatch.setattr(run_module, "load_data", lambda *_: data)
    record, _ = trained(msgspec.structs.replace(kd, recipe=recipe, teacher=kd.teacher), store)
    assert record.cost.remembered <= 0.5  # with a single view an image, all of the second epoch
    assert len(list(store.memories(kd.teacher.id).iterdir())) == 2


def test_a_record_is_run_anew_in_its_own_manner(
    make_cell: Make, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for live in (True, False):
        record, _ = trained(make_cell("kd", teacher="resnet8"), store, replace(CPU, live_teacher=live))
        store.finish(record)
        assert run_again(record.id, store.folder, Path()) == 0
        assert capsys.readouterr().out.endswith("The same bits as the record.\n")
    assert run_again(record.id, store.folder, Path(), live_teacher=True) == 0
    assert "as expected: the environment differs" in capsys.readouterr().out


def test_the_flag_reaches_whoever_runs(kdbench: Make, write_grid: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    manners = []

    class Spy(Launcher):
        def launch(self, _: Plan) -> Counter[str]:
            manners.append([engine.live_teacher for engine in self.engines])
            return Counter()

    monkeypatch.setattr(local, "Launcher", Spy)
    write_grid()
    assert kdbench("run", "grid.yaml").code == kdbench("run", "grid.yaml", "--live-teacher").code == 0
    assert manners == [[False], [True]]


# -- what is said of it -----------------------------------------------------------------------------------------------


def grid(*cells: Cell) -> Grid:
    return Grid("tiny", "", tuple(cells))


def test_a_plan_says_what_is_there_and_what_is_spared(make_cell: Make, store: Store) -> None:
    methods = ("kd", "rkd", "at")
    cells = [make_cell(method, teacher="resnet8", seed=seed) for method in methods for seed in (0, 1)]
    (memory,) = of_plan(plan(grid(*cells), store))["memories"]
    assert memory["full"] == 300 * 9 * 2 * (10 + 64)  # logits and embeddings of nine views each
    assert memory["there"] == 0
    assert memory["heard"] == 2 * 2 * 2  # two methods, two seeds, two epochs: at is not among them
    assert memory["asked"] == pytest.approx(9 * (1 - (8 / 9) ** 4), abs=0.05)  # two seeds' epochs, each seen twice
    trained(cells[0], store)
    made = plan(grid(*cells), store)
    there = of_plan(made)["memories"][0]["there"]
    assert there > 0
    line = (
        f"teachers' memory: {there / 1e6:.1f} MB now, at most 0.4 MB; it answers for the teachers in about 5 of 8 "
        "epochs"
    )
    assert line in plan_text(made).splitlines()


def test_a_plan_says_what_would_be_too_large(make_cell: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0.0001")
    text = plan_text(plan(grid(make_cell("rkd", teacher="resnet8")), store))
    assert "teachers' memory: off for 1, which would take up to 0.4 MB (KDBENCH_MEMORY_GB allows 0.1 MB)" in text


def test_speeds_with_a_memory_stand_in_no_column(make_cell: Make, make_record: Make) -> None:
    records = [make_record(make_cell("ce")), make_record(make_cell("kd", teacher="resnet8"))]
    assert list(series(frame(records))["images_per_second"]) == [1000, 1000]
    records[1].environment.arithmetic["teacher"], records[1].environment.key = "remembered", "so"
    speeds = series(frame(records)).set_index("method")["images_per_second"]
    assert speeds["ce"] == 1000 and speeds.isna()["kd"]
