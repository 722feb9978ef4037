"""The incremental setting in a grid's file, and what a plan says of it."""

from pathlib import Path

import msgspec
import pytest

from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.plans.feasibility import unworkable
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.plans.plan import plan
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.store import Store
from kdbench.refusal import Refusal
from tests.benchmark.conftest import MakeCell

RIGHT = {
    "setting": "incremental",
    "tasks": "5",
    "datasets": "digits",
    "students": "resnet8x0.25",
    "methods": "[ce, kd]",
    "recipe": "quick",
}


def written(folder: Path, **changes: str | None) -> Path:
    lines = [f"{key}: {value}\n" for key, value in (RIGHT | changes).items() if value is not None]
    file = folder / "grid.yaml"
    file.write_text("".join(lines))
    return file


def test_tasks_are_a_number_a_mapping_or_several_and_sweep_as_parameters_do(tmp_path: Path) -> None:
    tasks = "[5, {count: {sweep: [2, 5]}, memory: 20, alignment: true}]"
    cells = load(str(written(tmp_path, tasks=tasks, methods="kd", seeds="2"))).cells
    assert [cell.incremental for cell in cells[::2]] == [
        Incremental(count=5),
        Incremental(count=2, memory=20, alignment=True),
        Incremental(count=5, memory=20, alignment=True),
    ]
    assert {cell.setting for cell in cells} == {"incremental"} and not any(cell.teacher for cell in cells)
    assert len({cell.id for cell in cells}) == 6
    assert str(cells[2].incremental) == "2 tasks, memory 20, herding, aligned"
    assert msgspec.json.decode(msgspec.json.encode(cells[2]), type=Cell) == cells[2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": None}, ":1: the key 'tasks' is missing"),
        ({"setting": None}, ":1: tasks: classes arrive in tasks only in 'setting: incremental'"),
        ({"setting": "incrementel"}, ":1: setting: unknown value 'incrementel'; did you mean 'incremental'?"),
        (
            {"tasks": "3"},
            ":2: tasks: 10 classes must split into 3 equal tasks, at least two of them in the first",
        ),
        ({"tasks": "0"}, ":2: tasks.count: must be a whole number >= 1, got 0"),
        ({"tasks": "{count: 5, memroy: 20}"}, ":2: tasks.memroy: unknown key 'memroy'; did you mean 'memory'?"),
        ({"tasks": "{count: 5, memory: x}"}, ":2: tasks.memory: must be a whole number or 'all', got 'x'"),
        (
            {"tasks": "{count: 5, memory: 20, exemplars: 2}"},
            ":2: tasks: memory counts images in total and exemplars images per",
        ),
        ({"tasks": "[5, {count: 5, memory: 9}]"}, ":2: tasks[1]: memory must hold an image of each of the 10 classes"),
        ({"teachers": "resnet8"}, ":7: teachers: in the incremental setting the network before a task is the teacher"),
        ({"teacher_seeds": "2"}, ":7: teacher_seeds: in the incremental setting the network before a task is"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_with_its_place(
    tmp_path: Path, changes: dict[str, str | None], sentence: str
) -> None:
    with pytest.raises(Refusal) as refused:
        load(str(written(tmp_path, **changes)))
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "asked", "reason"),
    [
        ("ce", {"count": 1}, ""),
        ("kd", {"count": 5}, ""),
        ("kd", {"count": 1}, "kd learns from the network before a task: there must be at least two tasks, got one"),
        ("dkd", {"count": 5}, "dkd reads labels, but the network before a task does not know the new classes"),
        ("kd+dkd", {"count": 5}, "kd+dkd reads labels, but the network before a task does not know the new classes"),
        ("simkd", {"count": 5}, "simkd deploys another network: the next task could not continue with it"),
    ],
)
def test_a_plan_says_why_a_method_cannot_carry_knowledge_from_task_to_task(
    make_cell: MakeCell, method: str, asked: dict[str, int], reason: str
) -> None:
    assert unworkable(make_cell(method, setting="incremental", incremental=Incremental(**asked))) == reason


def test_a_plan_refuses_to_share_a_sequence_among_ranks(make_cell: MakeCell) -> None:
    cell = make_cell("kd", setting="incremental", incremental=Incremental(count=5), world=2)
    assert unworkable(cell) == "it must have world 1, got 2: the incremental setting runs on one device"


def test_a_plan_judges_the_time_of_a_cell_by_cells_of_its_own_setting(
    tmp_path: Path, make_cell: MakeCell, make_record: object
) -> None:
    store = Store(tmp_path / "results")
    grid = load(str(written(tmp_path, methods="ce", seeds="2")))
    assert callable(make_record)
    store.finish(make_record(make_cell("ce", recipe=grid.cells[0].recipe), seconds=99.0))
    assert plan(grid, store).hours() == (0, 2)
    store.finish(make_record(grid.cells[0], seconds=36.0))
    assert plan(grid, store).hours() == (0.01, 0)
