"""The grids of the feature-only paper: one protocol, with and without augmentation."""

import pytest

from kdbench.benchmark.plans.feasibility import unworkable
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.training.recipe import RECIPES, Recipe
from tests.pairs import FEATURE_ONLY

GRIDS = {"feature-only": False, "feature-only-augmented": True}
PEAKS = {"fo_vgg19": 0.005, "fo_vgg11": 0.005, "fo_vit_ett": 1e-3, "fo_vit_b": 1e-4}
PEAKS |= dict.fromkeys(["fo_resnet34", "fo_resnet9", "fo_mobilenetv2"], 0.0075)


@pytest.mark.parametrize("name", GRIDS)
def test_every_network_is_trained_as_in_the_paper(name: str) -> None:
    grid = load(name)
    students = [(cell.teacher.student, cell.student) for cell in grid.cells if cell.teacher]
    assert set(students) == set(FEATURE_ONLY)
    for cells, augment in ((grid.cells, GRIDS[name]), (grid.teachers.values(), True)):
        for cell in cells:
            assert cell.training == Recipe(
                epochs=50, batch=128, optimizer="adamw", schedule="onecycle", weight_decay=0.01,
                lr=PEAKS[cell.student], augment=augment,
            )  # fmt: skip
    assert RECIPES["feature-only"].warmup == 0.3


def test_logits_are_weighed_as_in_the_paper() -> None:
    """Its control is CE + T² · KL; beside features too, whose own weight of CE is 1."""
    control = {"temperature": 4.0, "weight": 1.0, "ce_weight": 1.0}
    for name in GRIDS:
        assert {str(cell.params) for cell in load(name).cells if cell.method == "kd"} == {str(control)}
    combined = [cell for cell in load("feature-only-combined").cells if cell.method == "feature_with_ce+kd"]
    assert {(cell.params["kd"]["weight"], cell.params["feature_with_ce"]["ce_weight"]) for cell in combined} == {(1, 1)}


def test_augmented_or_not_the_teachers_are_the_same() -> None:
    plain, augmented = (load(name) for name in GRIDS)
    assert plain.teachers.keys() == augmented.teachers.keys()
    assert not {cell.id for cell in plain.cells} & {cell.id for cell in augmented.cells}


@pytest.mark.parametrize("dataset", ["cifar100", "tiny-imagenet"])
def test_every_pair_can_be_distilled(dataset: str) -> None:
    cells = [cell for cell in load("feature-only").cells if (cell.dataset, cell.seed) == (dataset, 0)]
    assert len(cells) == 12  # four pairs, three methods
    assert [cell.id for cell in cells if unworkable(cell)] == []
