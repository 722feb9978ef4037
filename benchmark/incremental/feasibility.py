"""Can a method carry knowledge from task to task? Built on the meta device, at no cost."""

import torch
from torch import nn

from kdbench import methods
from kdbench.benchmark import data, networks
from kdbench.benchmark.experiments.cell import Cell
from kdbench.methods.method import Needs
from kdbench.refusal import Refusal


def build(cell: Cell) -> Needs:
    """What the method needs in the second task, the first that has a teacher; refused where it cannot work."""
    assert cell.incremental
    known = data.source(cell.dataset)
    if cell.world > 1:
        raise Refusal(f"it must have world 1, got {cell.world}: classes arrive task by task on one device")
    sizes = cell.incremental.sizes(known.classes)
    taught = methods.taught(cell.method)
    if taught and len(sizes) == 1:
        raise Refusal(f"{cell.method} learns from the network before a task: there must be two tasks, got one")
    student, before = (networks.form(cell.student, sum(sizes[:tasks]), known.image) for tasks in (2, 1))
    if cell.incremental.alignment and not isinstance(student.classifier, nn.Linear):
        raise Refusal(f"alignment needs a classifier that is linear, got {type(student.classifier).__name__}")
    facts = cell.training.facts(student.classes, torch.arange(known.train) % student.classes)
    with torch.device("meta"):
        method = methods.create(cell.method, student, before, facts, **cell.params)
        needs = method.needs()
    if taught and needs.labels:
        raise Refusal(f"{cell.method} reads labels: the network before a task knows nothing of the new ones")
    if method.deployed(student) is not student:
        raise Refusal(f"{cell.method} ships a network of its own: the next task could not go on from it")
    return needs
