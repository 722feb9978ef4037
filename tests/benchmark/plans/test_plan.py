"""A plan says of every cell what a run would do with it, and why."""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from torch import Tensor

from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.plan import State, plan
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.summary import Sent, of_plan, of_status, plan_text, status_text, time_left
from kdbench.benchmark.runs.worker import Status
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method
from kdbench.refusal import Refusal
from tests.benchmark.plans.states import failed, finish, states

MakeCell, MakeRecord = Callable[..., Cell], Callable[..., Record]


class Fussy(Method):
    source = "features"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts, *, bug: bool = False) -> None:
        super().__init__(student, teacher, facts)
        if bug:
            raise TypeError("a mistake of its author's")
        raise Refusal(f"fussy: wants 64 classes, got {facts.classes}")

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {}


class Patient(Method):
    source = "labels"
    built: ClassVar[list[int]] = []

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.built.append(facts.epochs)
        if facts.epochs < 3:
            raise Refusal(f"patient: wants 3 epochs, got {facts.epochs}")

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {}


def test_before_anything_is_there_all_is_missing_and_teachers_come_first(grid: Grid, store: Store) -> None:
    made = plan(grid, store)
    assert list(states(made).items()) == [
        ("resnet14x0.5 ce", "missing"), ("resnet8x0.25 ce", "missing"), ("resnet8x0.25 kd", "missing"),
    ]  # fmt: skip
    assert (len(made.teachers), len(made.students)) == (1, 2)
    assert not store.folder.exists()  # planning leaves nothing behind


def test_what_has_a_record_is_finished(grid: Grid, store: Store, make_record: MakeRecord, ce: Cell, kd: Cell) -> None:
    assert kd.teacher
    for cell in (kd.teacher, ce):
        finish(store, make_record(cell))
    made = plan(grid, store)
    assert made.counts() == {
        "finished": 2, "outdated": 0, "running": 0, "failed": 0, "missing": 1, "invalid": 0,
    }  # fmt: skip
    finish(store, make_record(kd))
    assert set(states(plan(grid, store)).values()) == {"finished"}


def test_a_teacher_without_weights_is_missing_as_long_as_somebody_must_learn_from_it(
    grid: Grid, store: Store, make_record: MakeRecord, kd: Cell
) -> None:
    assert kd.teacher
    finish(store, make_record(kd.teacher))
    store.weights(kd.teacher).unlink()
    assert states(plan(grid, store))["resnet14x0.5 ce"] == "missing"
    finish(store, make_record(kd))
    assert states(plan(grid, store))["resnet14x0.5 ce"] == "finished"


def test_a_teacher_whose_pupils_are_done_is_not_trained_for_nobody(
    grid: Grid, store: Store, make_record: MakeRecord, kd: Cell
) -> None:
    finish(store, make_record(kd))
    assert states(plan(grid, store)) == {"resnet8x0.25 ce": "missing", "resnet8x0.25 kd": "finished"}


def test_a_teacher_whose_pupils_cannot_work_is_not_trained_for_nobody(store: Store, make_cell: MakeCell) -> None:
    hopeless = make_cell("feature_only", teacher="resnet14x0.5", params={"teacher_depths": [3, 2]})
    made = plan(Grid("tiny", "", (make_cell(), hopeless)), store)
    assert states(made) == {"resnet8x0.25 ce": "missing", "resnet8x0.25 feature_only": "invalid"}


def test_a_teacher_whose_pupils_failed_is_trained_only_if_they_are_to_run_again(
    grid: Grid, store: Store, make_record: MakeRecord, kd: Cell
) -> None:
    """Another training could end with other weights, and outdate the students that are finished."""
    assert kd.teacher
    finish(store, make_record(kd.teacher))
    store.weights(kd.teacher).unlink()
    store.fail(failed(kd))
    assert states(plan(grid, store))["resnet14x0.5 ce"] == "finished"
    assert states(plan(grid, store, "failed"))["resnet14x0.5 ce"] == "missing"


def test_a_cell_that_teaches_and_is_asked_for_itself_stands_once(store: Store, kd: Cell) -> None:
    assert kd.teacher
    made = plan(Grid("tiny", "", (kd.teacher, kd)), store)
    assert [len(made.teachers), len(made.students)] == [1, 1]


def test_a_failure_is_told_with_its_reason_and_by_its_pupils(grid: Grid, store: Store, kd: Cell) -> None:
    assert kd.teacher
    store.fail(failed(kd.teacher))
    made = plan(grid, store)
    (entry,) = made.those(State.FAILED)
    assert (entry.cell, entry.reason) == (kd.teacher, "Diverged: the loss is no longer a number")
    assert [entry.reason for entry in made.those(State.MISSING)] == ["", "its teacher failed"]


def test_what_failed_is_missing_for_who_asks_for_it(grid: Grid, store: Store, kd: Cell) -> None:
    assert kd.teacher
    store.fail(failed(kd.teacher))
    made = plan(grid, store, "failed")
    assert [(entry.state, entry.reason) for entry in made.entries] == [(State.MISSING, "")] * 3


def test_a_record_outweighs_a_failure_of_the_same_cell(
    grid: Grid, store: Store, make_record: MakeRecord, ce: Cell
) -> None:
    finish(store, make_record(ce))
    store.fail(failed(ce))
    assert states(plan(grid, store))["resnet8x0.25 ce"] == "finished"


def test_a_cell_that_somebody_holds_is_running(grid: Grid, store: Store, ce: Cell) -> None:
    lease = Lease.take(store.work(ce.id))
    assert lease
    made = plan(grid, store)
    assert [entry.cell for entry in made.those(State.RUNNING)] == [ce]
    assert of_status(made, store.folder)["running"][0]["id"] == ce.id
    assert f"running  {ce.id}: starting" in status_text(made, store.folder)
    lease.release()
    assert states(plan(grid, store))["resnet8x0.25 ce"] == "missing"


@pytest.mark.parametrize(
    ("params", "named", "reason"),
    [
        ({}, "", "fussy: wants 64 classes, got 10"),
        ({"bug": True}, ", fussy(bug=True)", "TypeError: a mistake of its author's"),
    ],
)
def test_a_cell_that_cannot_work_is_invalid_with_the_methods_own_reason(
    store: Store, make_cell: MakeCell, ce: Cell, params: dict[str, Any], named: str, reason: str
) -> None:
    METHODS.register("fussy")(Fussy)
    cell = make_cell("fussy", teacher="resnet14x0.5", params=params)
    made = plan(Grid("tiny", "", (ce, cell)), store)
    assert [(entry.cell, entry.reason) for entry in made.those(State.INVALID)] == [(cell, reason)]
    assert f"  invalid  {cell.id}{named}: {reason}" in plan_text(made).splitlines()


def test_what_a_method_refuses_by_one_recipe_it_may_do_by_another_and_every_seed_like_the_first(
    store: Store, make_cell: MakeCell
) -> None:
    METHODS.register("patient")(Patient)
    cells = [make_cell("patient", recipe=Recipe(epochs=n, batch=16), seed=seed) for n in (2, 3) for seed in (0, 1)]
    made = plan(Grid("tiny", "", tuple(cells)), store)
    assert [entry.cell for entry in made.those(State.INVALID)] == cells[:2]
    assert {entry.reason for entry in made.those(State.INVALID)} == {"patient: wants 3 epochs, got 2"}
    assert Patient.built == [2, 3]


def test_what_relates_images_and_differentiates_by_them_is_for_one_process_alone(
    store: Store, make_cell: MakeCell
) -> None:
    alone, together = (make_cell("jacobian+sp", teacher="resnet14x0.5", world=world) for world in (1, 2))
    made = plan(Grid("tiny", "", (alone, together)), store)
    assert [entry.state for entry in made.students] == [State.MISSING, State.INVALID]
    assert made.students[1].reason.startswith("it must have world 1, got 2")


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_plan_names_the_methods_that_a_family_of_embedding_and_logits_alone_excludes_and_why(
    store: Store, make_cell: MakeCell, role: str
) -> None:
    pair = {"teacher": "resnet8x4", "student": "resnet20"} | {role: "timm:resnetv2_50"}
    teacher = make_cell(dataset="cifar100", student=pair["teacher"])
    cells = {
        method: make_cell(method, teacher=teacher, dataset="cifar100", student=pair["student"])
        for method in ("kd", "simkd", "ofd", "reviewkd")
    }
    made = plan(Grid("uncut", "", tuple(cells.values())), store)
    excluded = [entry.cell.method for entry in made.those(State.INVALID)]
    assert excluded == ["ofd", "reviewkd"]
    why = f"features cannot be aligned: the {role} ResNetV2 has no stages to tap, but an embedding and logits alone"
    for method in excluded:
        assert method in cells[method].id
        assert f"  invalid  {cells[method].id}: {why}" in plan_text(made).splitlines()


def test_a_cell_is_expected_to_take_as_long_an_epoch_as_its_likes(
    store: Store, make_cell: MakeCell, make_record: MakeRecord, recipe: Recipe
) -> None:
    """Two epochs took 2, 4 and 60 s: the median is 2 s an epoch, and 40 epochs take 80 s."""
    for seed, seconds in enumerate((2.0, 4.0, 60.0)):
        finish(store, make_record(make_cell("kd", teacher="resnet14x0.5", seed=seed), seconds=seconds))
    longer = msgspec.structs.replace(recipe, epochs=40)
    like = make_cell("kd", teacher=make_cell(student="resnet14x0.5"), seed=9, recipe=longer)
    akin = make_cell("kd+ce", teacher=like.teacher, seed=9, recipe=longer)  # another method: the pair's time
    unlike = make_cell(seed=9)
    made = plan(Grid("tiny", "", (like, akin, unlike)), store)
    assert [entry.seconds for entry in made.students] == [80.0, 80.0, None]
    assert made.hours() == (pytest.approx(160 / 3600), 2)
    assert time_left(made) == "about 2 min 40 s one after the other, and 2 cells of unmeasured length"


def test_what_others_run_already_has_no_time_of_its_own(store: Store, make_cell: MakeCell) -> None:
    cell = make_cell()
    lease = Lease.take(store.work(cell.id))
    assert lease
    assert time_left(plan(Grid("tiny", "", (cell,)), store)) == "running elsewhere already"
    lease.release()


@pytest.mark.parametrize(
    ("machines", "said"),
    [
        ([("AVX512", {"cpu": "EPYC"})], ", as on EPYC (AVX512)"),
        ([("NVIDIA H200", {"cpu": "Xeon", "gpu": "NVIDIA H200"})], ", as on NVIDIA H200"),
        ([("B", {"cpu": "EPYC"}), ("A", {"cpu": "EPYC"})], ", as on EPYC (A) and 1 other machine"),
        ([("", {})], ""),
    ],
)
def test_who_plans_is_told_whose_times_those_are(
    store: Store, make_cell: MakeCell, make_record: MakeRecord, machines: list[tuple[str, dict[str, str]]], said: str
) -> None:
    for seed, (device, machine) in enumerate(machines):
        record = make_record(make_cell(seed=seed), seconds=4.0)
        record.environment.arithmetic, record.environment.machine = {"device": device}, dict(machine)
        finish(store, record)
    assert time_left(plan(Grid("tiny", "", (make_cell(seed=9),)), store)) == f"about 4 s{said}"


def test_a_plan_in_words_lists_what_is_to_run_and_no_more_than_twenty(store: Store, make_cell: MakeCell) -> None:
    cells = tuple(make_cell(seed=seed) for seed in range(23))
    lines = plan_text(plan(Grid("tiny", "", cells), store)).splitlines()
    assert lines[0] == "tiny: 23 cells and 0 teachers: 23 missing"
    assert lines[1] == f"  to run  {cells[0].id}"
    assert lines[-2:] == ["  … and 3 more", "time to run  23 cells of unmeasured length"]


def test_cells_that_a_method_has_one_reason_for_are_told_of_once_and_of_reasons_no_more_than_twenty(
    store: Store, make_cell: MakeCell
) -> None:
    METHODS.register("fussy")(Fussy)
    cells = [make_cell("fussy", teacher="resnet14x0.5", seed=seed) for seed in range(3)]
    hot = [make_cell("kd", teacher="resnet14x0.5", params={"temperature": -float(t)}) for t in range(22)]
    made = plan(Grid("tiny", "", (*cells, *hot)), store)
    first = f"  invalid  {cells[0].id} and 2 more like it: fussy: wants 64 classes, got 10"
    for lines in (plan_text(made).splitlines(), status_text(made, store.folder).splitlines()):
        assert (lines[1], len(lines)) == (first, 22)
        assert lines[2].startswith(f"  invalid  {hot[0].id}, kd(temperature=-0.0): kd: temperature must be above 0")
        assert lines[-1] == "  … and 3 more invalid"


def test_a_plan_in_words_tells_the_cells_of_a_sweep_apart(store: Store, make_cell: MakeCell) -> None:
    teachers = [make_cell(student="resnet8", seed=seed) for seed in (0, 1)]
    usual, hot, other = (
        make_cell("kd", teacher=teacher, params=params)
        for teacher, params in ((teachers[0], {}), (teachers[0], {"temperature": 8.0}), (teachers[1], {}))
    )
    tasks = make_cell(setting="incremental", incremental=Incremental(count=5, exemplars=20))
    lines = plan_text(plan(Grid("tiny", "", (usual, hot, other, tasks)), store)).splitlines()
    assert lines[3:7] == [
        f"  to run  {usual.id}",
        f"  to run  {hot.id}, kd(temperature=8.0)",
        f"  to run  {other.id}, teacher's seed 1",
        f"  to run  {tasks.id}, 5 tasks, 20 exemplars, herding",
    ]


def test_a_cell_that_somebody_stopped_in_the_middle_of_is_told_of(grid: Grid, store: Store, ce: Cell) -> None:
    folder = store.work(ce.id)
    Checkpoints(folder).save({})
    (folder / "status.json").write_bytes(msgspec.json.encode(Status("main", 7, 20, 0.5, 60.0)))
    made = plan(grid, store)
    assert f"  to run  {ce.id}: resumes from its checkpoint" in plan_text(made).splitlines()
    assert f"  stopped  {ce.id}: epoch 7 of 20" in status_text(made, store.folder).splitlines()
    assert [row["begun"] for row in of_plan(made)["cells"]] == [False, True, False]
    queued = status_text(made, store.folder, Sent({ce.id: "job 1 pending"}, {}))
    assert f"  pending  {ce.id}: job 1 pending" in queued and "stopped" not in queued


def test_a_plan_for_scripts_has_a_row_for_every_cell(grid: Grid, store: Store, ce: Cell) -> None:
    store.fail(failed(ce))
    rows = of_plan(plan(grid, store))
    assert (rows["grid"], rows["teachers"], rows["students"], rows["cells_without_estimate"]) == ("tiny", 1, 2, 2)
    assert [row["state"] for row in rows["cells"]] == ["missing", "failed", "missing"]


def test_a_status_names_the_folder_in_which_failures_lie(grid: Grid, store: Store, ce: Cell) -> None:
    store.fail(failed(ce))
    assert f"{store.folder}/failures/" in status_text(plan(grid, store), store.folder)
