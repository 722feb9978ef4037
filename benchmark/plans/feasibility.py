"""Checks whether a cell can work, by building it on the meta device at no cost."""

import msgspec
import torch
from torch import nn

from kdbench import methods
from kdbench.benchmark import data, networks
from kdbench.benchmark.records.cell import IMPORT, Cell
from kdbench.methods.method import Needs
from kdbench.refusal import Refusal, in_a_sentence

META = "a plan builds methods without values: read values of tensors only in prepare() or losses()"


def decisive(cell: Cell) -> bytes:
    """Everything that decides whether a cell can work: all but its seed. A method may also refuse a recipe."""
    teacher = cell.teacher.student if cell.teacher else None
    setting = (cell.incremental, cell.dataset, teacher, cell.student, cell.world)
    return msgspec.json.encode((setting, cell.method, cell.params, cell.recipe), order="sorted")


def unworkable(cell: Cell) -> str:
    """Why this cell cannot work, in a sentence; empty if it can."""
    found = attempt(cell)
    return found if isinstance(found, str) else ""


def attempt(cell: Cell) -> Needs | str:
    """What a cell's method needs, or why it cannot work, in a sentence."""
    if cell.method == IMPORT:
        return "it must be imported first, with 'kdbench teacher import'"
    try:
        needs = _checked(cell, _build_tasks(cell) if cell.incremental else _build(cell))
    except Refusal as refusal:
        return str(refusal)
    except Exception as error:  # usually from a user's method
        why = in_a_sentence(error)
        return f"{why}: {META}" if "meta tensor" in why else why
    if cell.world > 1 and needs.whole_batch and needs.input_grad:
        return f"it must have world 1, got {cell.world}: its method relates images and needs their gradients"
    return needs


def _checked(cell: Cell, needs: Needs) -> Needs:
    """Refuse a wrong answer of a user's method."""
    if not isinstance(needs, Needs):
        raise Refusal(f"{cell.method}: needs() must return Needs, got a {type(needs).__name__}")
    known = data.source(cell.dataset)
    teacher = cell.teacher.student if cell.teacher else cell.student
    for whose, name, depths in ("student", cell.student, needs.student), ("teacher", teacher, needs.teacher):
        last = len(networks.form(name, known.classes, known.image).links)
        if wrong := [depth for depth in depths if not 0 <= depth <= last]:
            raise Refusal(f"{cell.method}: needs() must name depths from 0 to the {whose}'s {last}, got {wrong[0]}")
    return needs


def _build(cell: Cell) -> Needs:
    known = data.source(cell.dataset)
    facts = cell.training.facts(known.classes, torch.arange(known.train) % known.classes)
    student = networks.form(cell.student, known.classes, known.image)
    teacher = networks.form(cell.teacher.student, known.classes, known.image) if cell.teacher else student
    with torch.device("meta"):
        return methods.create(cell.method, student, teacher, facts, **cell.params).needs()


def _build_tasks(cell: Cell) -> Needs:
    """For classes in tasks: what the method needs in the second task, the first that has a teacher."""
    assert cell.incremental
    known = data.source(cell.dataset)
    if cell.world > 1:
        raise Refusal(f"it must have world 1, got {cell.world}: the incremental setting runs on one device")
    sizes = cell.incremental.sizes(known.classes)
    taught = methods.taught(cell.method)
    if taught and len(sizes) == 1:
        raise Refusal(f"{cell.method} learns from the network before a task: there must be at least two tasks, got one")
    student, before = (networks.form(cell.student, sum(sizes[:tasks]), known.image) for tasks in (2, 1))
    if cell.incremental.alignment and not isinstance(student.classifier, nn.Linear):
        raise Refusal(f"alignment needs a linear classifier, got {type(student.classifier).__name__}")
    facts = cell.training.facts(student.classes, torch.arange(known.train) % student.classes)
    with torch.device("meta"):
        method = methods.create(cell.method, student, before, facts, **cell.params)
        needs = method.needs()
    if taught and needs.labels:
        raise Refusal(f"{cell.method} reads labels, but the network before a task does not know the new classes")
    if method.deployed(student) is not student:
        raise Refusal(f"{cell.method} deploys another network: the next task could not continue with it")
    return needs
