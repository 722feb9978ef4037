"""The command ``submit``: submits a grid's missing cells as job arrays, teachers first, and exits."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import _make_sbatch_string

from kdbench.benchmark import data as datasets
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.plan import Plan, State, to_be_run
from kdbench.benchmark.plans.soundness import with_sound_teachers
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.words import counted
from kdbench.portable import TOLD, portable
from kdbench.refusal import Refusal
from kdbench.slurm import queue, snapshot
from kdbench.slurm import site as sites
from kdbench.slurm.bundles import Bundle, bundles
from kdbench.slurm.job import AGAIN, CODE, Job
from kdbench.slurm.site import Site
from kdbench.slurm.submission import Submission, folder, keep, waiting

DEAF = 128 + signal.SIGUSR2  # srun's exit code if the warning signal has killed its process
BUSY = "another submission to these results is in progress: try again when it has ended"


@dataclass(frozen=True)
class Array:
    """Jobs that are submitted together."""

    jobs: list[Bundle]
    teachers: bool
    at_once: int
    after: list[int]  # arrays of this submission that must end first
    after_jobs: list[str]  # jobs of earlier submissions that must end first


def submit(
    grid: Grid, site_name: str, results: Path, data: Path, *, dry_run: bool = False, retry: str | None = None,
    **settings: Any,
) -> str:  # fmt: skip
    """Submit missing cells that are not in the queue. Returns a text about what was done, or would be."""
    site, store = sites.load(site_name), Store(results.resolve())
    if portable() and site.gpus:
        raise Refusal(f"--portable uses no GPU: the site must have gpus: 0, got gpus: {site.gpus}")
    if dry_run:
        try:
            there, longest = waiting(store, queue.queued()), queue.largest_array()
        except Refusal:  # a dry run works anywhere
            there, longest = {}, queue.USUAL_ARRAY
        made = to_be_run(grid, store, retry)
        known = _to_come(made, there, store)
        submission, parts = drawn_up(made, site, site_name, known, longest)
        texts = _shown(submission, parts, site, store)
        return "\n".join([*texts, f"{_counted(parts)} would be submitted{_besides(made, known)}."])

    check(site, store)
    for dataset in {entry.cell.dataset for entry in to_be_run(grid, store, retry).those(State.MISSING)}:
        datasets.load(dataset, data)  # read or downloaded before a job needs it
    desk = Lease.take(store.folder / "work" / "submit")
    if desk is None:
        raise Refusal(BUSY)
    with desk:
        store.tidy()  # jobs do not do this: many of them end at once
        # The queue is read before the records: a job that ends in between has written its records.
        there = waiting(store, queue.queued())
        made = with_sound_teachers(grid, store, retry)
        known = _to_come(made, there, store)
        submission, parts = drawn_up(made, site, site_name, known, queue.largest_array())
        if not parts:
            return f"Nothing is left to submit{_besides(made, known)}."
        if shutil.which("srun") is None:  # submitit looks for it too, and too late
            raise Refusal("SLURM must be available on this machine, but there is no command 'srun'")
        if not desk.holds():  # this process was suspended for so long that it was believed dead
            raise Refusal(BUSY)
        failed = [failure for id in _ids(submission.arrays) if (failure := store.failure(id))]
        for failure in failed:
            store.forgive(failure.id)
        home = folder(store) / submission.name
        keep(submission, store)  # before the first job is queued: every queued job is known
        snapshot.freeze(home / "code.zip")
        data = data.resolve()
        numbers: list[str] = []
        try:
            for number, array in enumerate(parts):
                how = {"teachers": array.teachers} | settings
                jobs = [Job(job.cells, store.folder, data, site.scratch, **how) for job in array.jobs]
                parameters = _parameters(submission, number, array, site, home, numbers)
                numbers.append(_send(jobs, home / str(number), parameters, site.python))
        except Refusal:  # jobs that SLURM refused are forgotten, and their cells' failures restored
            keep(msgspec.structs.replace(submission, arrays=submission.arrays[: len(numbers)]), store)
            refused = _ids(submission.arrays[len(numbers) :])
            for failure in failed:
                if failure.id in refused:
                    store.fail(failure)
            raise
    return f"Submitted {_counted(parts)}: {', '.join(numbers)}{_besides(made, known)}. Logs: {home}"


def _to_come(made: Plan, there: dict[str, queue.Queued], store: Store) -> dict[str, queue.Queued]:
    """The cells that queued jobs will still run: a job does not retry a failed cell."""
    left = {entry.cell.id for entry in made.those(State.MISSING, State.RUNNING, State.OUTDATED)}
    left -= store.failures().keys()
    return {cell_id: job for cell_id, job in there.items() if cell_id in left}


def _ids(arrays: list[list[list[str]]]) -> set[str]:
    return {cell_id for array in arrays for job in array for cell_id in job}


def drawn_up(
    made: Plan, site: Site, site_name: str, known: dict[str, queue.Queued], longest: int
) -> tuple[Submission, list[Array]]:
    """The arrays to submit, in their order. A student whose teacher will be missing is not submitted."""
    alone = _alone(made, known)
    students = sorted(made.students, key=lambda entry: entry.cell.seed)  # as on one machine: see Agenda
    first = bundles([e for e in made.teachers if e.state is State.MISSING and e.cell.id not in known], site)
    then = bundles([e for e in students if e.state is State.MISSING and e.cell.id not in known.keys() | alone], site)
    earlier = sorted({known[entry.cell.id].job for entry in made.teachers if entry.cell.id in known})

    arrays = _laned(first, site, longest, teachers=True, start=0, after=[], after_jobs=[])
    teachers = list(range(len(arrays)))
    arrays += _laned(then, site, longest, teachers=False, start=len(arrays), after=teachers, after_jobs=earlier)
    now = datetime.now(UTC)
    short = re.sub(r"\W+", "-", made.grid.name)[:40]
    submission = Submission(
        name=f"kdbench-{short}-{now:%Y%m%d-%H%M%S-%f}",
        grid=made.grid.name,
        site=site_name,
        submitted=now.isoformat(timespec="microseconds"),
        arrays=[[[cell.id for cell in job.cells] for job in array.jobs] for array in arrays],
    )
    return submission, arrays


def _alone(made: Plan, known: Container[str]) -> set[str]:
    """The students that cannot be submitted: their teacher failed, or runs where no job can wait for it."""
    there = (State.FINISHED, State.MISSING)
    absent = {e.cell.id for e in made.teachers if e.state not in there and e.cell.id not in known}
    pupils = [(e.cell.id, e.cell.teacher.id) for e in made.students if e.cell.teacher and e.state is State.MISSING]
    return {pupil for pupil, teacher in pupils if teacher in absent and pupil not in known}


def _laned(
    jobs: Sequence[Bundle], site: Site, longest: int, *, teachers: bool, start: int, after: list[int],
    after_jobs: list[str],
) -> list[Array]:  # fmt: skip
    """Arrays of jobs with the same number of tasks, no longer than the cluster allows. The site's limit on concurrent
    jobs is divided among lanes, which run side by side. If there are more arrays than lanes, they queue in lanes."""
    alike = [[job for job in jobs if job.world == world] for world in sorted({job.world for job in jobs})]
    chunks = [part[i : i + longest] for part in alike for i in range(0, len(part), longest)]
    lanes = min(len(chunks), site.at_once)
    arrays = []
    for place, chunk in enumerate(chunks):
        share = site.at_once // lanes + (place % lanes < site.at_once % lanes)
        before = [start + place - lanes] if place >= lanes else after
        arrays.append(Array(chunk, teachers, share, before, after_jobs if place < lanes else []))
    return arrays


def check(site: Site, store: Store) -> None:
    """Refuse what is known to fail, before anything is queued."""
    if wrong := re.search(r"[%\\\n]", str(store.folder)):
        raise Refusal(
            f"the results folder's path must be without {wrong[0]!r}, which SLURM interprets, got {store.folder}"
        )
    if site.partition:
        partitions = set(queue.ask("sinfo", "--all", "--noheader", "--format=%R").split())
        if unknown := set(site.partition.split(",")) - partitions:
            there = ", ".join(sorted(partitions))
            raise Refusal(f"the site's partition must be one of the cluster's, got '{min(unknown)}'; known: {there}")
    types = queue.gpu_types(site.partition)
    if site.gpus and len(types) > 1 and not site.names_a_kind(types):
        count = str(site.gpus).rpartition(":")[2]
        raise Refusal(
            f"gpus must name one of the partition's types, to run a comparison on one kind of GPU: "
            f"'{sorted(types)[0]}:{count}', got '{site.gpus}'; it has {', '.join(sorted(types))}"
        )


# -- the options and scripts of sbatch --------------------------------------------------------------------------------


def _parameters(
    submission: Submission, number: int, array: Array, site: Site, home: Path, numbers: Sequence[str]
) -> dict[str, Any]:
    longest = max(job.minutes for job in array.jobs)
    asked = site.parameters(submission.array(number), longest, array.jobs[0].world)
    asked["array_parallelism"] = array.at_once
    asked["setup"] = setup(site, home / "code.zip")
    asked["teardown"] = teardown(home / str(number))
    if before := [*(numbers[i] for i in array.after), *array.after_jobs]:
        asked["dependency"] = "afterany:" + ":".join(before)
    return asked


def setup(site: Site, code: Path) -> list[str]:
    """Shell lines before Python: the site's setup, then this submission's code, unpacked on the node."""
    told = TOLD if portable() else {}
    return [
        "trap : TERM",  # this shell waits for Python, which writes a checkpoint on SIGTERM
        'JOB="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
        *(f"export {name}={shlex.quote(value)}" for name, value in {**site.environment, **told}.items()),
        *site.setup,
        # TMPDIR may be the login node's, and missing on this one.
        f'{CODE}=$(mktemp -d -p "${{SLURM_TMPDIR:-${{TMPDIR:-/tmp}}}}" kdbench.XXXXXX || mktemp -d -p /tmp) || exit',
        f"export {CODE}",
        "export SLURM_EXPORT_ENV=ALL",  # srun's tasks get all of it, whatever --export sbatch was given
        f"trap 'rm -rf \"${CODE}\"' EXIT",
        f'{_python(site)} -m zipfile -e {shlex.quote(str(code))} "${CODE}" || exit',  # never run other code
        f'export PYTHONPATH="${CODE}${{PYTHONPATH:+:$PYTHONPATH}}"',
    ]


def teardown(where: Path) -> list[str]:
    """Shell lines after Python: requeue the job if Python asks for it, or was killed by the warning before it could
    handle it. Remove the pickles of a job that is over. Only a result shows that it is: srun's exit code is also zero
    when it is told to end."""
    pickle = shlex.quote(str(where)) + '/"$JOB"'
    return [
        "code=$?",
        f'if [ $code = {AGAIN} ] || [ $code = {DEAF} ]; then scontrol requeue "$JOB"; fi',
        f"if [ -e {pickle}_0_result.pkl ]; then rm -f {pickle}_submitted.pkl {pickle}_*_result.pkl; fi",
        "exit $code",
    ]


def _python(site: Site) -> str:
    return site.python or shlex.quote(sys.executable)


def _send(jobs: Sequence[Job], where: Path, parameters: dict[str, Any], python: str | None) -> str:
    """Submit the jobs. Returns the number that SLURM gives the array."""
    try:
        with _outside():
            executor = submitit.SlurmExecutor(folder=where, python=python)
            executor.update_parameters(**parameters)
            with executor.batch():
                sent = [executor.submit(job) for job in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        shutil.rmtree(where)
        lines = [line for line in str(error).strip().splitlines() if not line.startswith('Try "sbatch')]
        why = lines or ["no reason given"]
        raise Refusal(f"SLURM refused the jobs: {why[-1]}") from None
    return str(sent[0].job_id).partition("_")[0]


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Hide the variables of an enclosing allocation, whose options sbatch would inherit."""
    inherited = {k: v for k, v in os.environ.items() if k.startswith(("SLURM_", "SBATCH_")) and k != "SLURM_CONF"}
    for key in inherited:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(inherited)


def _shown(submission: Submission, arrays: Sequence[Array], site: Site, store: Store) -> list[str]:
    """The scripts that sbatch would get, array by array."""
    home = folder(store) / submission.name
    texts = []
    for number, array in enumerate(arrays):
        named = [f"<array {i}>" for i in range(number)]
        parameters = _parameters(submission, number, array, site, home, named)
        where = home / str(number)
        command = f"{_python(site)} -u -m submitit.core._submit {shlex.quote(str(where))}"
        count = len(array.jobs) if len(array.jobs) > 1 else None  # a single job is no array
        text = _make_sbatch_string(command, where, map_count=count, **parameters)
        texts.append(f"# array {number}: {counted(sum(len(job.cells) for job in array.jobs), 'cell')}\n{text}")
    return texts


def _counted(arrays: Sequence[Array]) -> str:
    cells = sum(len(job.cells) for array in arrays for job in array.jobs)
    return f"{counted(cells, 'cell')} in {counted(sum(len(array.jobs) for array in arrays), 'job')}"


def _besides(made: Plan, known: Container[str]) -> str:
    """The cells that are neither finished nor submitted, and why."""
    counts = {
        "in the queue already": sum(entry.cell.id in known for entry in made.entries),
        "running elsewhere": len([e for e in made.those(State.RUNNING) if e.cell.id not in known]),
        "failed (--retry failed submits them again)": len(made.those(State.FAILED)),
        "outdated (--retry outdated submits them again)": sum(
            entry.cell.id not in known for entry in made.those(State.OUTDATED)
        ),
        "waiting for a teacher that failed or runs outside this queue": len(_alone(made, known)),
        "invalid ('plan' shows why)": len(made.those(State.INVALID)),
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    return f"; {', '.join(said)}" if said else ""
