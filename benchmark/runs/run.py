"""Runs one cell: from its specification to its record."""

import statistics
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from kdbench import methods
from kdbench.benchmark import data, extensions, networks
from kdbench.benchmark.incremental.metrics import arrival
from kdbench.benchmark.randomness import stream
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.environment import commit, environment
from kdbench.benchmark.records.record import Cost, Curves, Environment, Record, Result
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import digest, parameters, size, trained, weights_of
from kdbench.benchmark.runs.memory import listening
from kdbench.benchmark.runs.sequence import Sequence
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.compilation import Uncompilable
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import shown
from kdbench.benchmark.training.loop import Epoch, Live, drive, training
from kdbench.benchmark.training.peak_memory import PeakMemory
from kdbench.benchmark.training.ranks import ALONE, Ranks
from kdbench.benchmark.training.teacher import Answers
from kdbench.benchmark.training.together import Together
from kdbench.benchmark.whole import write
from kdbench.refusal import Refusal

load_data = lru_cache(maxsize=2)(data.load)
Ran = tuple[Record, bytes | None]  # with the weights, if it can be a teacher
Running = Generator[Live, None, Ran]


def run(
    cell: Cell,
    store: Store,
    engine: Engine,
    data_folder: Path,
    checkpoints: Checkpoints | None,
    watch: Callable[[Live], None] | None = None,
    ranks: Ranks = ALONE,
) -> Ran:
    """Run all steps of ``running`` without a pause. ``watch`` is called after every step."""
    return drive(running(cell, store, engine, data_folder, checkpoints, ranks=ranks), watch)


def running(
    cell: Cell,
    store: Store,
    engine: Engine,
    data_folder: Path,
    checkpoints: Checkpoints | None,
    together: Together | None = None,
    ranks: Ranks = ALONE,
) -> Running:
    """Train the cell's student step by step, from its last checkpoint if there is one, and return its record.
    ``together``: the cells that it takes turns with, and with which it may share the teacher's answers."""
    commit()  # cached now: the files may change before the run ends
    extensions.needs(cell.files)  # a file may have changed before this process started
    if cell.incremental:
        return (yield from running_tasks(cell, engine, data_folder, checkpoints)), None
    eager = replace(engine, compile="off")
    if engine.compile == "auto" and checkpoints and checkpoints.eager.exists():
        engine = eager
    try:
        return (yield from learning(cell, store, engine, data_folder, checkpoints, together, ranks))
    except Uncompilable as error:
        if engine.compile == "on":
            raise Refusal(f"compile must be auto or off for {cell.id}: torch cannot compile it: {error}") from error
        warnings.warn(f"{cell.id} begins anew, not compiled: {error}", stacklevel=2)
        if checkpoints:
            checkpoints.clear()  # a run must not be compiled only in part
            write(checkpoints.eager, b"")
        return (yield from learning(cell, store, eager, data_folder, checkpoints, together, ranks))


def learning(
    cell: Cell,
    store: Store,
    engine: Engine,
    data_folder: Path,
    checkpoints: Checkpoints | None,
    together: Together | None,
    ranks: Ranks,
) -> Running:
    started = time.perf_counter()
    known = data.source(cell.dataset)
    dataset = load_data(cell.dataset, data_folder)
    trained_on = dataset.digest()  # before the first step: files may be gone hours later

    # The seed gives the same initial weights and the same batches to every method: comparisons are paired.
    engine.prepare()  # before the teacher's first answer, which the choice of layers may need
    torch.manual_seed(stream("student", cell.seed))
    student = networks.build(cell.student, known.classes, known.image)
    teacher, teacher_record = trained(cell.teacher, store) if cell.teacher else (None, None)
    facts = cell.training.facts(known.classes, dataset.train.labels)
    if teacher and teacher_record:
        engine.place(teacher, cell.training)
        facts = replace(
            facts, images=partial(shown, dataset, engine), remembered=partial(store.remembered, teacher_record)
        )
    torch.manual_seed(stream("method", cell.seed))
    # A method without a teacher is given the student in its place, and never uses it.
    params = methods.resolve(cell.method, student, teacher or student, facts, **cell.params)
    method = methods.create(cell.method, student, teacher or student, facts, **params)
    engine = engine.settled(facts.steps * facts.epochs, method.needs(), ranks.world)

    memory = listening(cell, teacher, teacher_record, method.needs(), dataset, store, engine)
    manner = {"teacher": "remembered"} if memory else {}
    if checkpoints:
        checkpoints.here = _place(environment(engine, cell.training.precision, **manner))
        checkpoints.teacher = teacher_record.result.weights if teacher_record else ""
        checkpoints.data = trained_on
    ask_teacher: Answers | None = memory
    if memory is None and together and teacher:
        ask_teacher = together.teacher(teacher, method.needs())
    with PeakMemory(engine) as space:
        history = yield from training(
            student, teacher, method, dataset, cell.training, cell.seed,
            engine=engine, checkpoints=checkpoints, ask_teacher=ask_teacher, ranks=ranks,
        )  # fmt: skip

    shipped = method.deployed(student).cpu()
    main = [epoch for epoch in history if epoch.phase == "main"]
    record = Record(
        id=cell.id,
        cell=cell,
        result=_result(main, params, digest(shipped), teacher_record),
        cost=Cost(
            seconds=sum(epoch.seconds for epoch in history),
            wall_seconds=time.perf_counter() - started,
            images_per_second=statistics.median(len(dataset.train) / epoch.seconds for epoch in main),
            epoch_seconds=[round(epoch.seconds, 4) for epoch in main],
            peak_memory_mb=round(space.peak / 2**20, 1),
            student_parameters=parameters(student),
            method_parameters=size(method),
            deployed_parameters=parameters(shipped),
            together=together.most if together else 1,
            remembered=round(memory.share, 4) if memory else 0.0,
        ),
        environment=_environment(engine, cell, checkpoints, **manner),
        data=trained_on,
    )
    return record, weights_of(shipped) if cell.method == "ce" else None  # trained with labels only


def running_tasks(
    cell: Cell, engine: Engine, data_folder: Path, checkpoints: Checkpoints | None
) -> Generator[Live, None, Record]:
    """The same for a cell whose classes arrive task by task. Such a cell cannot be a teacher."""
    assert checkpoints
    engine = replace(engine, compile="off")  # every task would need its own compilation
    checkpoints.here = _place(environment(engine, cell.training.precision))
    started = time.perf_counter()
    dataset = load_data(cell.dataset, data_folder)
    trained_on = checkpoints.data = dataset.digest()
    sequence = Sequence(cell, dataset, engine)
    with PeakMemory(engine) as space:
        past = yield from sequence.run(checkpoints)

    student = sequence.network(sequence.known.classes, past)
    tasks = [[epoch for epoch in epochs if epoch.phase == "main"] for epochs in past.epochs]
    main = [epoch for epochs in tasks for epoch in epochs]
    result = _result(main, past.params, digest(student), None)
    seen = [epochs[-1].score.top1 for epochs in tasks if epochs[-1].score]
    last = result.curves.top1[-len(tasks[-1]) :]  # earlier tasks had fewer classes
    result.best_top1, result.best_epoch = max(last), len(main) - len(last) + last.index(max(last)) + 1
    result.incremental = arrival(sequence.classes, past.matrix, seen)
    return Record(
        id=cell.id,
        cell=cell,
        result=result,
        cost=Cost(
            seconds=sum(epoch.seconds for epochs in past.epochs for epoch in epochs),
            wall_seconds=time.perf_counter() - started,
            images_per_second=statistics.median(
                images / epoch.seconds for images, epochs in zip(past.images, tasks, strict=True) for epoch in epochs
            ),
            epoch_seconds=[round(epoch.seconds, 4) for epoch in main],
            peak_memory_mb=round(space.peak / 2**20, 1),
            student_parameters=parameters(student),
            method_parameters=past.method_parameters,
            deployed_parameters=parameters(student),
        ),
        environment=_environment(engine, cell, checkpoints),
        data=trained_on,
    )


def _place(where: Environment) -> str:
    """The environment and the code. A run that is resumed by other code belongs to neither."""
    return f"{where.key} by {where.git or where.versions['kdbench']}"


def _environment(engine: Engine, cell: Cell, checkpoints: Checkpoints | None, **manner: str) -> Environment:
    """The environment in which a run ended, with those that it was in before, if any: its bits then belong to none."""
    if checkpoints and checkpoints.elsewhere:
        manner["elsewhere"] = ", ".join(checkpoints.elsewhere)
    return environment(engine, cell.training.precision, **manner)


def _result(main: list[Epoch], params: dict[str, Any], weights: str, teacher: Record | None) -> Result:
    scores = [epoch.score for epoch in main if epoch.score is not None]
    top1 = [score.top1 for score in scores]
    return Result(
        top1=top1[-1],
        top5=scores[-1].top5,
        test_loss=scores[-1].loss,
        best_top1=max(top1),
        best_epoch=top1.index(max(top1)) + 1,
        curves=Curves(
            lr=[epoch.lr for epoch in main],
            terms={name: [epoch.terms.get(name, 0.0) for epoch in main] for name in main[-1].terms},
            top1=top1,
            test_loss=[score.loss for score in scores],
        ),
        params=params,
        weights=weights,
        teacher_weights=teacher.result.weights if teacher else None,
        teacher_top1=teacher.result.top1 if teacher else None,
    )
