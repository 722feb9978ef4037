"""The width study of the paper on features, logits and gradients."""

from kdbench.benchmark import networks
from kdbench.benchmark.plans.grid import load


def test_only_the_students_width_and_the_source_differ() -> None:
    grid = load("width-study")
    students = {cell.student: networks.form(cell.student, 100, (3, 32, 32)) for cell in grid.cells}
    assert sorted(chain.embedding_width for chain in students.values()) == [16, 32, 64, 128, 256]
    assert len({len(chain) for chain in students.values()}) == 1
    (teacher,) = grid.teachers.values()
    assert networks.form(teacher.student, 100, (3, 32, 32)).embedding_width == 256
    assert len(grid.cells) == 5 * 7 * 3
