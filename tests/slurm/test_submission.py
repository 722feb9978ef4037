"""What is sent and what is said of it, where a scheduler only seems to be there."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.plans.plan import Plan, plan
from kdbench.benchmark.records import lease as lease_module
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.summary import status_text
from kdbench.benchmark.runs.worker import failure
from kdbench.portable import TOLD
from kdbench.refusal import Refusal
from kdbench.slurm import queue, watch
from kdbench.slurm import submit as sending
from kdbench.slurm.queue import Queued
from kdbench.slurm.site import Site
from kdbench.slurm.submission import Submission, folder, keep, logs, submissions, submitted
from kdbench.slurm.submit import BUSY, Array, drawn_up, submit

GRID = """
datasets: digits
pairs: resnet8 -> resnet8x0.25
methods: [ce, kd]
recipe: {base: quick, epochs: 1}
seeds: 3
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(GRID)
    Path("site.yaml").write_bytes(msgspec.yaml.encode({"partition": "gpu"}))
    return Store(tmp_path / "results")


def planned(store: Store, retry: str | None = None) -> Plan:
    return plan(load("grid.yaml"), store, retry)


def drawn(store: Store, known: dict[str, Queued] | None = None, longest: int = 1001, **site: Any) -> list[Array]:
    return drawn_up(planned(store), Site(**site), "site", known or {}, longest)[1]


# -- arrays ------------------------------------------------------------------------------------------------------------


def test_students_wait_for_the_teachers_array(store: Store) -> None:
    teachers, students = drawn(store)
    assert [len(teachers.jobs), teachers.teachers, teachers.after] == [1, True, []]
    assert [len(students.jobs), students.teachers, students.after] == [6, False, [0]]


def test_a_submission_that_is_cancelled_halfway_has_every_method_on_the_same_seeds(store: Store) -> None:
    cells = [cell for job in drawn(store)[1].jobs for cell in job.cells]
    assert [(cell.seed, cell.method) for cell in cells] == [(s, m) for s in range(3) for m in ("ce", "kd")]


def test_students_wait_for_a_teacher_that_is_in_the_queue_already(store: Store) -> None:
    teacher = planned(store).teachers[0].cell.id
    (students,) = drawn(store, {teacher: Queued("7_1", "PENDING", "Priority")})
    assert (students.after, students.after_jobs) == ([], ["7_1"])


def test_students_of_a_teacher_that_failed_are_not_sent_until_it_is_sent_again(store: Store) -> None:
    store.fail(failure(planned(store).teachers[0].cell, "broken", "", None))
    (students,) = drawn(store)
    assert {cell.method for job in students.jobs for cell in job.cells} == {"ce"}
    _, again = drawn_up(planned(store, "failed"), Site(), "site", {}, 1001)
    assert [len(array.jobs) for array in again] == [1, 6]


def test_cells_of_one_world_share_an_array(store: Store) -> None:
    Path("several.yaml").write_text(GRID.replace("kd]", "at]") + "world: 2\ninclude: grid.yaml\n")
    made = plan(load("several.yaml"), store)
    _, arrays = drawn_up(made, Site(), "site", {}, 1001)
    assert [{job.world for job in array.jobs} for array in arrays] == [{1}, {2}, {1}, {2}]
    assert [array.after for array in arrays] == [[], [], [0, 1], [0, 1]]
    assert [array.at_once for array in arrays] == [8, 8, 8, 8]


@pytest.mark.parametrize(
    ("longest", "at_once", "shares", "after"),
    [
        (6, 4, [4], [[0]]),
        (2, 4, [2, 1, 1], [[0], [0], [0]]),
        (1, 4, [1] * 6, [[0], [0], [0], [0], [1], [2]]),
        (2, 1, [1, 1, 1], [[0], [1], [2]]),
    ],
)
def test_arrays_share_what_may_run_at_once_or_wait_for_each_other(
    store: Store, longest: int, at_once: int, shares: list[int], after: list[list[int]]
) -> None:
    arrays = drawn(store, longest=longest, at_once=at_once)[1:]
    assert [array.at_once for array in arrays] == shares
    assert [array.after for array in arrays] == after
    running = [number for number, array in enumerate(arrays, start=1) if array.after == [0]]
    assert sum(arrays[number - 1].at_once for number in running) <= at_once


def test_where_arrays_are_switched_off_each_job_is_submitted_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "ask", lambda *_: "MaxArraySize            = 0\nMaxJobCount = 10000\n")
    assert [len(array.jobs) for array in drawn(store, longest=queue.largest_array())] == [1] * 7


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(store: Store) -> Submission:
    """Two jobs of an array of its own each: the teacher, and all students one after the other."""
    made = planned(store)
    arrays = [[[entry.cell.id for entry in entries]] for entries in (made.teachers, made.students)]
    submission = Submission(name="kdbench-grid-1", grid="grid", site="site", submitted="2026", arrays=arrays)
    keep(submission, store)
    return submission


Answer = Callable[[str], None]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """What squeue says, on a cluster with one partition, gpu."""

    def answer(text: str) -> None:
        monkeypatch.setattr(queue, "ask", lambda *command: {"squeue": text, "sinfo": "gpu"}.get(command[0], ""))

    return answer


def test_cells_are_pending_with_the_schedulers_reason_or_lost(store: Store, sent: Submission, answer: Answer) -> None:
    answer("kdbench-grid-1.0|N/A|5|PENDING|Resources\nanother user's|job|9|0|RUNNING|None\n")
    said = watch.sent(planned(store), store)
    (teacher,), students = sent.arrays[0][0], sent.arrays[1][0]
    assert said.pending == {teacher: "job 5 pending: Resources"}
    assert said.lost == {cell: f"its job left no record: 'logs {cell}'; 'submit' resumes" for cell in students}


def test_a_cell_that_has_ended_since_the_plan_is_not_lost_and_the_records_are_asked_once(
    store: Store, sent: Submission, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("")
    made = planned(store)
    store.fail(failure(made.students[0].cell, "broken", "", None))
    monkeypatch.setattr(Store, "record", None)  # whoever asks of one cell now falls
    assert watch.sent(made, store).lost.keys() == {entry.cell.id for entry in (*made.teachers, *made.students[1:])}


def test_of_the_cells_of_a_job_that_runs_only_the_first_is_starting(
    store: Store, sent: Submission, answer: Answer
) -> None:
    answer("kdbench-grid-1.1|N/A|6|RUNNING|None\n")
    first, second, *_ = sent.arrays[1][0]
    assert watch.sent(planned(store), store).pending[first] == "job 6 runs: starting"
    lease = Lease.take(store.work(first))
    assert lease is not None
    said = watch.sent(planned(store), store).pending
    assert first not in said and said[second] == "job 6 runs: other cells come first"


def test_students_that_were_left_out_by_their_job_are_lost_to_their_teachers_failure(
    store: Store, sent: Submission, answer: Answer
) -> None:
    answer("")
    store.fail(failure(planned(store).teachers[0].cell, "broken", "", None))
    lost = watch.sent(planned(store), store).lost
    assert [lost[cell] for cell in sent.arrays[1][0] if "-kd-" in cell] == ["its teacher failed"] * 3


def last_line(store: Store, retry: str | None = None) -> str:
    said = submit(load("grid.yaml"), "site.yaml", store.folder, Path(), dry_run=True, retry=retry)
    return said.splitlines()[-1]


def test_outdated_cells_are_sent_where_they_are_asked_for_and_are_pending_then_but_never_lost(
    store: Store, sent: Submission, answer: Answer, make_record: Callable[..., Record]
) -> None:
    answer("")
    made = planned(store)
    (teacher,) = made.teachers
    store.finish(make_record(teacher.cell, weights="n" * 32), b"weights")
    for entry in made.students:
        store.finish(make_record(entry.cell))
    old = planned(store)
    assert last_line(store) == (
        "0 cells in 0 jobs would be submitted; 3 outdated (--retry outdated submits them again)."
    )
    assert last_line(store, retry="outdated").startswith("3 cells in ")
    assert watch.sent(old, store) == ({}, {})
    answer("kdbench-grid-1.1|N/A|6|PENDING|Priority\n")
    there = watch.sent(old, store)
    assert (set(there.pending.values()), there.lost) == ({"job 6 pending: Priority"}, {})
    said = status_text(old, store.folder, there)
    assert said.splitlines()[0].endswith(": 4 finished, 3 pending") and "outdated" not in said
    assert last_line(store) == "0 cells in 0 jobs would be submitted; 3 in the queue already."
    assert last_line(store, retry="outdated") == "0 cells in 0 jobs would be submitted; 3 in the queue already."


@pytest.mark.parametrize("job", [0, 1], ids=["teacher", "student"])
def test_a_cell_that_failed_can_be_sent_again_while_its_job_still_does_others(
    store: Store, sent: Submission, answer: Answer, job: int
) -> None:
    made = planned(store)
    store.fail(failure((made.teachers, made.students)[job][0].cell, "broken", "", None))
    answer("".join(f"kdbench-grid-1.{number}|N/A|{number}|RUNNING|None\n" for number in (0, 1)))

    assert last_line(store, retry="failed") == "1 cell in 1 job would be submitted; 6 in the queue already."
    assert last_line(store) == (
        "0 cells in 0 jobs would be submitted; 6 in the queue already, 1 failed (--retry failed submits them again)."
    )


@pytest.mark.usefixtures("sent")
def test_a_machine_without_slurm_says_so_and_what_the_files_say(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    said = watch.sent(planned(store), store)
    sentence = "submitted; SLURM must be available on this machine, but there is no command 'squeue'"
    assert (set(said.pending.values()), said.lost) == ({sentence}, {})


def test_logs_are_found_by_how_a_cell_begins_the_newest_shown(store: Store, sent: Submission) -> None:
    cell = sent.arrays[0][0][0]
    assert "no log yet" in watch.tail(cell, store)
    log = folder(store) / sent.name / "0" / "5_0_log.out"
    log.parent.mkdir()
    log.write_text("first\nlast")
    assert logs(store, cell) == [log] and watch.tail(cell[:-3], store).endswith("last")
    several = sum(key.startswith("digits-resnet8x") for key in submitted(store))
    assert several > 1
    with pytest.raises(Refusal, match=f"unknown submitted cell 'digits-resnet8x'; {several} start with it"):
        watch.tail("digits-resnet8x", store)
    store.fail(failure(here := load("quickstart").cells[0], "a mistake", "its traceback", None))
    with pytest.raises(Refusal, match=f"it ran on this machine: 'kdbench show {here.id}'"):
        watch.tail(here.id, store)
    assert here.id.startswith("digits-resnet8x")
    with pytest.raises(Refusal, match=f"'digits-resnet8x'; {several} start with it"):  # of those that were submitted
        watch.tail("digits-resnet8x", store)


def test_a_damaged_submission_is_passed_over(store: Store, sent: Submission) -> None:
    other = folder(store) / "half" / "submission.json"
    other.parent.mkdir()
    other.write_text('{"name": ')
    assert submissions(store) == [sent]


# -- what is refused before anything is in the queue -------------------------------------------------------------------


def refused(grid: str = GRID, results: str = "results") -> str:
    Path("grid.yaml").write_text(grid)
    with pytest.raises(Refusal) as caught:
        submit(load("grid.yaml"), "site.yaml", Path(results), Path("data"))
    assert not (Path(results) / "jobs").exists()
    return str(caught.value)


@pytest.mark.usefixtures("store")
def test_a_submit_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert refused() == "SLURM must be available on this machine, but there is no command 'sinfo'"


@pytest.mark.usefixtures("store")
def test_portable_jobs_are_sent_where_they_ask_for_no_gpu_and_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    assert refused() == "--portable uses no GPU: the site must have gpus: 0, got gpus: 1"
    Path("site.yaml").write_bytes(msgspec.yaml.encode({"gpus": 0}))
    said = submit(load("grid.yaml"), "site.yaml", Path("results"), Path("data"), dry_run=True)
    assert all(f"export {name}=" in said for name in TOLD)


@pytest.mark.usefixtures("store")
def test_a_gpu_must_be_of_a_kind_that_the_partition_has(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer("gpu\n")
    monkeypatch.setattr(queue, "gpu_types", lambda _: {"a100", "v100"})
    Path("site.yaml").write_bytes(msgspec.yaml.encode({"partition": "gpu", "gpus": "h200:2"}))
    assert refused() == (
        "gpus must name one of the partition's types, to run a comparison on one kind of GPU: 'a100:2', got 'h200:2'; "
        "it has a100, v100"
    )


@pytest.mark.usefixtures("store")
def test_a_data_set_that_is_not_there(answer: Answer) -> None:
    answer("")
    assert "tiny-imagenet" in refused(GRID.replace("digits", "tiny-imagenet"))


@pytest.mark.usefixtures("store")
def test_a_results_folder_whose_name_slurm_would_read_as_its_own(answer: Answer) -> None:
    answer("")
    assert "must be without '%', which SLURM interprets" in refused(results="100%j")


def test_a_second_submit_while_one_is_under_way(store: Store, answer: Answer) -> None:
    answer("")
    assert Lease.take(store.folder / "work" / "submit")
    assert refused() == BUSY


def test_a_submission_keeps_its_lease_alive_and_sends_nothing_without_it(
    store: Store, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.folder / "work" / "submit" / "lease.1"

    def slow(*_: object) -> dict[str, Queued]:
        """As where many records are read over a network; in the end another takes the submission for dead."""
        deadline = time.monotonic() + 60
        os.utime(file, (0, 0))
        while not file.stat().st_mtime:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        file.unlink()
        return {}

    answer("")
    monkeypatch.setattr(lease_module, "BEAT", 0.01)
    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr(sending, "_to_come", slow)
    assert refused() == BUSY
