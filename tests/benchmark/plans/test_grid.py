"""What a grid declares: which cells, in which order, with which recipes, parameters and seeds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.benchmark.plans.grid import Grid, load, shipped
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.training.recipe import RECIPES
from kdbench.refusal import Refusal

WriteGrid = Callable[..., Path]


@pytest.fixture
def grid(write_grid: WriteGrid) -> Callable[..., Grid]:
    """The grid that a right one becomes by these changes."""
    return lambda *text, **changes: load(str(write_grid(*text, **changes)))


MakeGrid = Callable[..., Grid]


def short(cell: Cell) -> str:
    taught = f"{cell.teacher.student}.{cell.teacher.seed}>" if cell.teacher else ""
    return f"{cell.dataset} {taught}{cell.student} {cell.method} {cell.seed}"


def test_a_grid_is_the_product_of_its_lists_in_the_order_of_the_file(grid: MakeGrid) -> None:
    made = grid(
        pairs=None, datasets="[digits, 'digits:held-out']", students="[resnet8, resnet14]", teachers="resnet20",
        methods="[kd, ce]", seeds="[3, 1]",
    )  # fmt: skip
    assert [short(cell) for cell in made.cells] == [
        f"{dataset} {method[0]}{student} {method[1]} {seed}"
        for dataset in ("digits", "digits:held-out")
        for student in ("resnet8", "resnet14")
        for method in (("resnet20.0>", "kd"), ("", "ce"))
        for seed in (3, 1)
    ]
    assert [short(cell) for cell in made.teachers.values()] == ["digits resnet20 ce 0", "digits:held-out resnet20 ce 0"]


def test_a_list_of_one_is_the_same_as_the_one(grid: MakeGrid) -> None:
    single = grid(methods="kd", seeds="1")
    listed = grid(datasets="[digits]", pairs="[resnet14x0.5->resnet8x0.25]", methods="[kd: ]", seeds="[0]")
    assert single == listed


def test_pairs_are_students_and_teachers_spelled_out(grid: MakeGrid) -> None:
    pairs = grid(pairs="[resnet14 -> resnet8, resnet20 -> resnet8]")
    assert pairs == grid(pairs=None, students="resnet8", teachers="[resnet14, resnet20]")


def test_a_student_alone_stands_once_however_many_teachers_there_are(grid: MakeGrid) -> None:
    made = grid(pairs="[resnet14 -> resnet8, resnet20 -> resnet8]", teacher_seeds="[0, 4]")
    assert [short(cell) for cell in made.cells] == [
        "digits resnet8 ce 0",
        "digits resnet14.0>resnet8 kd 0",
        "digits resnet14.4>resnet8 kd 0",
        "digits resnet20.0>resnet8 kd 0",
        "digits resnet20.4>resnet8 kd 0",
    ]


def test_students_alone_need_no_teacher(grid: MakeGrid) -> None:
    made = grid(pairs=None, students="resnet8", methods="ce", seeds="2")
    assert [short(cell) for cell in made.cells] == ["digits resnet8 ce 0", "digits resnet8 ce 1"]
    assert made.teachers == {}


def test_a_method_has_all_its_parameters_those_of_the_file_and_the_defaults(grid: MakeGrid) -> None:
    (cell,) = grid(methods="[{kd: {temperature: 1e-3}}]").cells
    assert cell.params == {"temperature": 0.001, "weight": 0.9, "ce_weight": 0.1}
    assert grid(methods="[kd, {kd: {temperature: 4}}]").cells == grid(methods="kd").cells


def test_a_sweep_makes_a_method_of_each_combination_of_values(grid: MakeGrid) -> None:
    made = grid(methods="[{kd: {temperature: {sweep: [1, 2]}, weight: {sweep: [3, 4]}}}, ce]")
    swept = [(cell.params["temperature"], cell.params["weight"]) for cell in made.cells[:-1]]
    assert swept == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert made.cells[-1].method == "ce"


def test_a_member_of_a_combination_can_be_swept(grid: MakeGrid) -> None:
    made = grid(methods="[{kd+ce: {kd: {weight: {sweep: [3, 4]}}, ce_weight: 1}}]")
    assert [cell.params["kd"]["weight"] for cell in made.cells] == [3, 4]
    assert {cell.params["ce_weight"] for cell in made.cells} == {1.0}


def test_a_recipe_is_known_changed_or_ones_own(grid: MakeGrid) -> None:
    def recipe(text: str) -> Cell:
        return grid(methods="kd", recipe=text).cells[0]

    assert (recipe("quick").recipe, recipe("quick").protocol) == (RECIPES["quick"], "quick")
    changed = recipe("{base: quick, lr: 1e-2, epochs: 3}")
    assert (changed.recipe.lr, changed.recipe.epochs, changed.recipe.batch) == (0.01, 3, RECIPES["quick"].batch)
    assert (recipe("{epochs: 3}").recipe.epochs, recipe("{epochs: 3}").protocol) == (3, "custom(epochs=3)")


def test_a_recipes_name_says_what_differs_whatever_was_written(grid: MakeGrid) -> None:
    def protocol(text: str) -> str:
        return grid(methods="kd", recipe=text).cells[0].protocol

    assert protocol("{base: quick, lr: 1e-2, epochs: 3}") == "quick(epochs=3, lr=0.01)"
    assert protocol("{epochs: 3, lr: 0.01, base: quick}") == "quick(epochs=3, lr=0.01)"
    assert protocol(f"{{base: quick, epochs: {RECIPES['quick'].epochs}}}") == "quick"
    assert protocol("{epochs: 5, batch: 64, lr: 0.01}") == "custom(epochs=5, lr=0.01)"


def test_with_another_schedule_what_the_base_had_for_its_own_is_gone(grid: MakeGrid) -> None:
    recipe = grid(recipe="{base: cifar-240, epochs: 20, schedule: constant}").cells[0].recipe
    assert recipe and (recipe.epochs, recipe.milestones) == (20, ())


def test_and_how_many_processes_share_a_batch(grid: MakeGrid) -> None:
    cell = grid(methods="kd", recipe="quick", world=2).cells[0]
    assert (cell.protocol, cell.teacher and cell.teacher.protocol) == ("quick(world=2)",) * 2
    assert (
        grid(methods="kd", recipe="{base: quick, epochs: 3}", world=2).cells[0].protocol == "quick(epochs=3, world=2)"
    )


def test_a_teacher_has_the_students_recipe_unless_another_is_named(grid: MakeGrid) -> None:
    same, other = grid(methods="kd").cells[0], grid(methods="kd", teacher_recipe="{base: quick, epochs: 7}").cells[0]
    assert same.teacher and same.teacher.recipe == same.recipe
    assert other.teacher and (other.teacher.recipe.epochs, other.recipe.epochs) == (7, RECIPES["quick"].epochs)


def test_a_networks_own_learning_rate_is_in_its_cell(grid: MakeGrid) -> None:
    (cell,) = grid(methods="kd", recipe="{base: quick, lr: 1, lr_of: {resnet8x0.25: 0.5}}").cells
    assert (cell.recipe.lr, cell.recipe.lr_of) == (0.5, {})
    assert cell.teacher and cell.teacher.recipe.lr == 1.0


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ("", (0.01, 0.05)),
        (", lr: 0.02", (0.02, 0.02)),
        (", lr: 0.05", (0.05, 0.05)),
        (", lr: 0.02, lr_of: {vgg8: 0.3}", (0.02, 0.3)),
        (", lr_of: {MobileNetV2: 0.3}", (0.3, 0.05)),
        (", lr_of: {vgg8: 0.3}", (0.01, 0.3)),
    ],
)
def test_a_rate_that_is_asked_for_is_every_networks_and_one_of_a_network_adds_to_the_bases(
    grid: MakeGrid, changes: str, rates: tuple[float, float]
) -> None:
    """And a recipe has another name where it is another: the same cell never has two."""
    asked = {"pairs": None, "datasets": "cifar100", "methods": "ce", "recipe": f"{{base: cifar-240{changes}}}"}
    cells = grid(**asked, students="[MobileNetV2, vgg8]").cells
    assert tuple(cell.recipe.lr for cell in cells) == rates
    usual = (
        "cifar-240" if rate == own else f"cifar-240(lr={rate})" for rate, own in zip(rates, (0.01, 0.05), strict=True)
    )
    assert [cell.protocol for cell in cells] == list(usual)


def test_an_include_adds_the_cells_of_another_grid_from_its_own_folder(grid: MakeGrid, write_grid: WriteGrid) -> None:
    Path("inner").mkdir()
    write_grid(name="inner/more.yaml", methods="ce", seeds="2")
    write_grid("include: more.yaml\n", "inner/door.yaml")
    made = grid(include="inner/door.yaml", methods="[ce, kd]")
    assert [(cell.method, cell.seed) for cell in made.cells] == [("ce", 0), ("ce", 1), ("kd", 0)]
    assert grid("include: quickstart\n").cells == load("quickstart").cells


def test_a_grid_is_called_after_its_file_and_tells_what_it_is_about(grid: MakeGrid) -> None:
    made = grid(about="Digits, einfach so: ✓".join("''"))
    assert (made.name, made.about) == ("grid", "Digits, einfach so: ✓")


@pytest.mark.parametrize("text", ["digits", "2024-13-45", "1:30", "0x10", "1_000", "yes", ".inf"])
def test_words_that_older_yaml_reads_as_something_else_stay_words(grid: MakeGrid, text: str) -> None:
    assert grid(about=text).about == text


def test_a_grid_from_an_editor_that_marks_its_files_is_read(grid: MakeGrid) -> None:
    assert grid("\ufeffinclude: quickstart\n").cells == load("quickstart").cells


@pytest.mark.parametrize("name", shipped())
def test_a_grid_that_ships_declares_cells_and_says_what_it_is_about(name: str) -> None:
    made = load(name)
    assert made.cells and made.about


def test_a_name_in_the_working_folder_does_not_hide_a_grid_that_ships(write_grid: WriteGrid) -> None:
    write_grid("about: a file of mine\n", "quickstart")
    assert load("quickstart").about != "a file of mine"
    with pytest.raises(Refusal, match="the key 'datasets' is missing"):
        load("./quickstart")
