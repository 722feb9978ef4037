"""A cell's id says what was asked, all of it and nothing else."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.records.cell import Cell, called
from kdbench.benchmark.training.recipe import Recipe

MakeCell = Callable[..., Cell]

RECIPE = Recipe(
    epochs=3, batch=20, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="steps", milestones=(2,),
    warmup=0.3, augment=True, precision="fp32",
)  # fmt: skip

OTHERS: dict[str, Any] = {
    "epochs": 4,
    "batch": 21,
    "optimizer": "adamw",
    "lr": 0.2,
    "lr_of": {"resnet8": 0.1},
    "momentum": 0.8,
    "weight_decay": 0.0,
    "schedule": "onecycle",
    "milestones": (1,),
    "warmup": 0.2,
    "augment": False,
    "precision": "bf16",
}
PLAIN = msgspec.structs.replace(RECIPE, milestones=())
ONECYCLE = msgspec.structs.replace(PLAIN, schedule="onecycle")
BASES = {"schedule": PLAIN, "warmup": ONECYCLE}  # where no other schedule's values stand in the way


def pinned(method: str = "ce", teacher: Cell | None = None, **asked: Any) -> Cell:
    """A cell of which every value is spelled out here."""
    params = {"ce": {"ce_weight": 1.0}, "kd": {"temperature": 4.0, "weight": 0.9, "ce_weight": 0.1}}[method]
    basis = {"dataset": "digits", "student": "resnet8x0.25", "params": params, "recipe": RECIPE, "seed": 0}
    return Cell(method=method, teacher=teacher, **(basis | asked))


@pytest.mark.parametrize(
    ("cell", "id"),
    [
        (pinned(), "digits-resnet8x0.25-ce-s0-a1dba516ce76"),
        (pinned(seed=7), "digits-resnet8x0.25-ce-s7-eef86e1388d1"),
        (pinned(dataset="cifar100:held-out"), "cifar100_held_out-resnet8x0.25-ce-s0-37db03db969c"),
        (pinned("kd", pinned(student="resnet14")), "digits-resnet14-resnet8x0.25-kd-s0-203a8728793e"),
    ],
)
def test_ids_stay_what_they_were(cell: Cell, id: str) -> None:
    """Records are found by these: an id that changes loses every result that was ever computed under it."""
    assert cell.id == id


def test_defaults_stay_what_they_were() -> None:
    """Ids leave defaults out: one that changed would give old results to what is asked for now."""
    assert msgspec.to_builtins(Recipe(epochs=2, milestones=(1,))) == {
        "epochs": 2,
        "batch": 64,
        "optimizer": "sgd",
        "lr": 0.05,
        "lr_of": {},
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "steps",
        "milestones": (1,),
        "warmup": 0.3,
        "augment": True,
        "precision": "fp32",
    }
    cell = msgspec.to_builtins(Cell(dataset="", student="", method="", recipe=Recipe(epochs=1), seed=0))
    usual = {key: cell[key] for key in ("setting", "teacher", "params", "protocol", "world", "code")}
    assert usual == {"setting": "compression", "teacher": None, "params": {}, "protocol": "", "world": 1, "code": {}}


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cifar10"},
        {"student": "resnet8"},
        {"teacher": None},
        {"teacher": pinned(student="resnet20")},
        {"teacher": pinned(student="resnet14", seed=1)},
        {"teacher": pinned(student="resnet14", recipe=msgspec.structs.replace(RECIPE, epochs=9))},
        {"teacher": pinned(student="resnet14", code={"mine.py": "00"})},
        {"method": "dkd"},
        {"params": {"temperature": 4.0, "weight": 0.9, "ce_weight": 0.2}},
        {"seed": 1},
        {"world": 2},
        {"code": {"mine.py": "00"}},
    ],
    ids=str,
)
def test_whatever_changes_the_numbers_changes_the_id(other: dict[str, Any]) -> None:
    cell = pinned("kd", pinned(student="resnet14"))
    changed = msgspec.structs.replace(cell, **other)
    assert changed.id != cell.id


@pytest.mark.parametrize(("key", "value"), OTHERS.items())
def test_whatever_changes_in_the_recipe_changes_the_id(key: str, value: Any) -> None:
    base = BASES.get(key, RECIPE)
    changed = msgspec.structs.replace(base, **{key: value})
    assert pinned(recipe=changed).id != pinned(recipe=base).id


def test_every_setting_of_a_recipe_is_seen_to_change_the_id() -> None:
    assert set(OTHERS) == set(Recipe.__struct_fields__)


def test_a_recipes_name_and_the_order_of_keys_change_no_id() -> None:
    teacher = pinned(student="resnet14")
    cell = pinned("kd", teacher, code={"a.py": "1", "b.py": "2"})
    renamed = msgspec.structs.replace(cell, protocol="mine", teacher=msgspec.structs.replace(teacher, protocol="its"))
    turned = msgspec.structs.replace(
        cell, params=dict(reversed(cell.params.items())), code=dict(reversed(cell.code.items()))
    )
    assert cell.id == renamed.id == turned.id


def test_an_id_can_name_a_file_whatever_the_names_in_it() -> None:
    cell = pinned(dataset="a/b:c d\n", student="../é*?" + "x" * 400)
    assert re.fullmatch(r"[\w.+-]+", cell.id, re.ASCII)
    assert len(cell.id) < 160
    assert not cell.id.startswith(".")
    assert msgspec.structs.replace(cell, student=cell.student + "x").id != cell.id


def test_all_ids_of_a_grid_differ() -> None:
    grid = load("quickstart")
    ids = [cell.id for cell in (*grid.cells, *grid.teachers.values())]
    assert len(set(ids)) == len(ids) == 31


@pytest.mark.parametrize("form", [msgspec.json, msgspec.yaml])
def test_a_cell_comes_back_from_json_and_yaml(form: Any) -> None:
    cell = pinned("kd", pinned(student="resnet14"), protocol="mine", code={"mine.py": "00"}, seed=2**62)
    back = form.decode(form.encode(cell), type=Cell)
    assert back == cell
    assert (back.id, back.teacher.id) == (cell.id, cell.teacher.id if cell.teacher else "")


def test_a_cell_with_a_key_that_nobody_knows_is_not_read() -> None:
    content = msgspec.to_builtins(pinned()) | {"colour": "red"}
    with pytest.raises(msgspec.ValidationError, match="unknown field `colour`"):
        msgspec.convert(content, Cell)


def test_a_pair_is_named_after_both_and_a_student_alone_after_itself() -> None:
    assert pinned("kd", pinned(student="resnet14")).pair == "resnet14 → resnet8x0.25"
    assert pinned().pair == "resnet8x0.25"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a-kd-s1-00ff00ff", ["a-kd-s1-00ff00ff"]),  # though another goes on behind it
        ("a-kd-s1", ["a-kd-s1-00ff00ff", "a-kd-s1-00ff00ff00"]),
        ("b-", ["b-kd-s1-abcd0000"]),
        ("abcd", ["b-kd-s1-abcd0000"]),
        ("abc", []),
        ("kd-s1", []),
    ],
)
def test_a_cell_is_called_by_its_id_its_beginning_or_four_letters_of_its_digest(name: str, meant: list[str]) -> None:
    assert called(name, ["b-kd-s1-abcd0000", "a-kd-s1-00ff00ff00", "a-kd-s1-00ff00ff"]) == meant
