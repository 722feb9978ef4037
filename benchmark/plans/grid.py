"""A grid declares a set of cells in YAML: students × teachers × data sets × methods × seeds."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from kdbench.benchmark import extensions, networks
from kdbench.benchmark.conversion import Misfit, convert, shown
from kdbench.benchmark.data import source
from kdbench.benchmark.document import Document, find, read
from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.plans.declaration import declared, learns
from kdbench.benchmark.plans.parameters import complete
from kdbench.benchmark.records import imported
from kdbench.benchmark.records.cell import Cell, Seed
from kdbench.benchmark.training.recipe import RECIPES, WARMUP, Recipe
from kdbench.refusal import Refusal, nearest

SHIPPED = Path(__file__).parents[1] / "grids"
ARROW = "->"
MOST_CELLS = 100_000

OneOrMore = str | Annotated[list[str], Meta(min_length=1)]
WithParameters = Annotated[dict[str, dict[str, Any] | None], Meta(min_length=1)]
Tasks = int | dict[str, Any]
Seeds = Annotated[int, Meta(ge=1)] | Annotated[list[Seed], Meta(min_length=1)]


class Sheet(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The keys of a grid's file. Where a list is expected, a single value is enough."""

    about: str = ""
    include: OneOrMore | None = None  # other grids, whose cells are added
    files: OneOrMore | None = None  # Python files that register methods, networks or data sets
    setting: Literal["compression", "incremental"] = "compression"
    tasks: Tasks | Annotated[list[Tasks], Meta(min_length=1)] | None = None  # incremental: 5, or {count: 5, memory: 20}
    datasets: OneOrMore | None = None
    pairs: OneOrMore | None = None  # "teacher -> student"; NETWORK@DIGEST is an imported teacher
    teachers: OneOrMore | None = None  # or every teacher with every student
    students: OneOrMore | None = None
    methods: str | Annotated[list[str | WithParameters], Meta(min_length=1)] | None = None
    recipe: str | dict[str, Any] | None = None  # a name, or {base: NAME, epochs: 20, ...}
    teacher_recipe: str | dict[str, Any] | None = None  # default: the student's
    seeds: Seeds = 1  # a number of them, or a list
    teacher_seeds: Seeds = 1
    world: Annotated[int, Meta(ge=1)] = 1  # processes that train each cell together, teachers included; one GPU each


Placed = tuple[str, str]  # a place in the file, and the name at this place


@dataclass(frozen=True)
class Grid:
    """A set of cells, which may include teachers, in the order of their declaration."""

    name: str
    about: str
    cells: tuple[Cell, ...]

    @cached_property
    def teachers(self) -> dict[str, Cell]:
        """The teachers that its cells need, by id."""
        return {cell.teacher.id: cell.teacher for cell in self.cells if cell.teacher}


def shipped() -> dict[str, Path]:
    return {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}


def load(name: str) -> Grid:
    """The grid of this name, or in this file."""
    document = read(find(name, shipped(), "grid"))
    unique = {cell.id: cell for cell in _cells(document, above=())}
    return Grid(document.file.stem, document.convert(Sheet).about, tuple(unique.values()))


def _cells(document: Document, above: tuple[Path, ...]) -> Iterator[Cell]:
    sheet, here = document.convert(Sheet), (*above, document.file.resolve())
    for place, name in _items(document, sheet.files, "$.files"):
        with _placed(document, place):
            extensions.load(document.file.parent / name)
    for place, name in _items(document, sheet.include, "$.include"):
        with _placed(document, place):
            included = read(find(name, shipped(), "grid", document.file.parent))
            if included.file.resolve() in here:
                raise Refusal(f"{name}: a grid must not include itself")
        yield from _cells(included, here)
    if sheet.include is None or sheet.methods is not None:
        yield from _product(document, sheet)
    elif idle := [key for key in document.values if key not in ("about", "files", "include")]:
        advice = "add 'methods' to declare cells in this grid, or leave it out"
        raise document.refusal(f"$.{idle[0]}", f"has no effect on the included grids: {advice}")


def _product(document: Document, sheet: Sheet) -> Iterator[Cell]:
    """The cells that a sheet declares itself."""
    datasets = [
        _dataset(document, *item) for item in _items(document, _required(document, sheet, "datasets"), "$.datasets")
    ]
    settings = list(_settings(document, sheet))
    pairs = list(_pairs(document, sheet))
    methods = list(_methods(document, sheet))
    recipe, protocol = _recipe(document, _required(document, sheet, "recipe"), "$.recipe", sheet.world)
    teacher_recipe, teachers_protocol = recipe, protocol
    if sheet.teacher_recipe is not None:
        teacher_recipe, teachers_protocol = _recipe(document, sheet.teacher_recipe, "$.teacher_recipe", sheet.world)
    for batch in (recipe.batch, teacher_recipe.batch):
        if batch % sheet.world:
            raise document.refusal("$.world", f"must divide the recipe's batch, got {sheet.world} and {batch}")
    seeds = _seeds(document, sheet.seeds, "$.seeds")
    teacher_seeds = _seeds(document, sheet.teacher_seeds, "$.teacher_seeds")
    count = len(datasets) * len(settings) * len(pairs) * len(methods) * len(seeds) * len(teacher_seeds)
    if count > MOST_CELLS:
        raise document.refusal("$", f"a grid must not declare more than {MOST_CELLS:,} cells, got {count:,}")
    for dataset, (teacher, (place, student)) in itertools.product(datasets, pairs):
        if teacher:
            _teacher(document, *teacher, dataset)
        _network(document, place, student, dataset)

    for dataset, (place, asked) in itertools.product(datasets, settings):
        if asked:
            with _placed(document, place):
                asked.sizes(source(dataset).classes)

    for dataset, (_, asked), (teacher, (_, student)) in itertools.product(datasets, settings, pairs):
        for (name, params), teacher_seed in itertools.product(methods, teacher_seeds):
            cell = Cell(
                setting=sheet.setting,
                incremental=asked,
                dataset=dataset,
                student=student,
                method=name,
                params=params,
                recipe=recipe,
                protocol=protocol(student),
                seed=0,
                world=sheet.world,
            )
            if learns(cell):
                if teacher is None:
                    raise document.refusal("$.students", f"'{name}' needs a teacher: add 'teachers' or 'pairs'")
                trained_here = Cell(
                    dataset=dataset,
                    student=teacher[1],
                    method="ce",
                    recipe=teacher_recipe,
                    protocol=teachers_protocol(teacher[1]),
                    seed=teacher_seed,
                    world=sheet.world,
                )
                cell = replace(cell, teacher=imported.cell(dataset, teacher[1]) or trained_here)
            cell = declared(cell)
            yield from (replace(cell, seed=seed) for seed in seeds)


def _settings(document: Document, sheet: Sheet) -> Iterator[tuple[str, Incremental | None]]:
    """How classes arrive in the incremental setting. ``sweep`` works here as in a method's parameters."""
    if sheet.setting == "compression":
        if sheet.tasks is not None:
            raise document.refusal("$.tasks", "classes arrive in tasks only in 'setting: incremental'")
        yield "$.setting", None
        return
    for key in ("pairs", "teachers", "teacher_recipe", "teacher_seeds"):
        if key in document.values:
            raise document.refusal(
                f"$.{key}", "in the incremental setting the network before a task is the teacher: name only students"
            )
    for place, item in _items(document, _required(document, sheet, "tasks"), "$.tasks"):
        for chosen in _swept(document, {"count": item} if isinstance(item, int) else item, place):
            yield place, document.convert(Incremental, chosen, place)


def _pairs(document: Document, sheet: Sheet) -> Iterator[tuple[Placed | None, Placed]]:
    """Each pair's teacher and student."""
    if sheet.pairs is not None and (sheet.students is not None or sheet.teachers is not None):
        raise document.refusal("$.pairs", "a grid must name either pairs, or students and teachers")
    if sheet.pairs is None:
        students = _items(document, _required(document, sheet, "students", "'pairs' or 'students'"), "$.students")
        teachers: Sequence[Placed | None] = [*_items(document, sheet.teachers, "$.teachers")] or [None]
        yield from ((teacher, student) for student, teacher in itertools.product(students, teachers))
    for place, pair in _items(document, sheet.pairs, "$.pairs"):
        teacher, arrow, student = (part.strip() for part in pair.partition(ARROW))
        if not (teacher and arrow and student):
            raise document.refusal(place, f"a pair must be written 'teacher {ARROW} student', got '{pair}'")
        yield (place, teacher), (place, student)


def _methods(document: Document, sheet: Sheet) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method with all its parameters. ``{sweep: [1, 2]}`` as a parameter's value gives one method per value."""
    for place, item in _items(document, _required(document, sheet, "methods"), "$.methods"):
        entries = {item: None} if isinstance(item, str) else item
        for name, params in entries.items():
            spot = place if isinstance(item, str) else f"{place}.{name}"
            for chosen in _swept(document, params or {}, spot):
                with _placed(document, spot):
                    yield name, complete(name, chosen)


def _swept(document: Document, params: dict[str, Any], place: str) -> Iterator[dict[str, Any]]:
    choices = []
    for key, value in params.items():
        spot = f"{place}.{key}"
        if isinstance(value, dict) and set(value) == {"sweep"}:
            if not isinstance(value["sweep"], list) or not value["sweep"]:
                raise document.refusal(
                    f"{spot}.sweep", f"a sweep must be a list of values, got {shown(value['sweep'])}"
                )
            values = [one for _, one in _items(document, value["sweep"], f"{spot}.sweep")]
        else:  # each member of a combination has its own parameters
            values = list(_swept(document, value, spot)) if isinstance(value, dict) else [value]
        choices.append([(key, one) for one in values])
    return (dict(choice) for choice in itertools.product(*choices))


def _recipe(
    document: Document, value: str | dict[str, Any], place: str, world: int
) -> tuple[Recipe, Callable[[str], str]]:
    """A recipe, and a function that gives its name for a network: a known recipe with its changes, or ``custom`` with
    everything that is not a default. Only cells with the same name are compared. The name therefore includes the number
    of processes, as each has a smaller batch."""
    settings = {"base": value} if isinstance(value, str) else value
    changes = {key: setting for key, setting in settings.items() if key != "base"}
    keys = ["base", *(field.name for field in msgspec.structs.fields(Recipe))]
    if unknown := next((key for key in settings if key not in keys), None):
        raise document.refusal(f"{place}.{unknown}", f"unknown key '{unknown}'{nearest(unknown, keys)}")
    if "base" in settings:
        with _placed(document, place if isinstance(value, str) else f"{place}.base"):
            name = convert(settings["base"], str)
            base = RECIPES[name]
            known = msgspec.to_builtins(base)
        if "lr" in changes and known["lr_of"]:  # a given rate is for every network
            known |= {"lr": None, "lr_of": {}}
        if isinstance(changes.get("lr_of"), dict):
            changes["lr_of"] = known["lr_of"] | changes["lr_of"]
        if changes.get("schedule") != known["schedule"] and "schedule" in changes:  # the new schedule ignores them
            known |= {"milestones": (), "warmup": WARMUP}
    else:
        name, known, base = "custom", {}, Recipe(epochs=1)
    recipe = _known_networks(document, document.convert(Recipe, known | changes, place), place)

    def called(network: str) -> str:
        usual, own = (msgspec.to_builtins(one.for_network(network)) for one in (base, recipe))
        usual |= {} if "base" in settings else {"epochs": None}
        changed = [f"{key}={now}" for key, now in own.items() if now != usual[key]]
        changed += [f"world={world}"] if world > 1 else []
        return f"{name}({', '.join(changed)})" if changed else name

    return recipe, called


def _known_networks(document: Document, recipe: Recipe, place: str) -> Recipe:
    """The recipe, after a check that the networks in its ``lr_of`` are known."""
    for name in recipe.lr_of:
        with _placed(document, f"{place}.lr_of.{name}"):
            networks.family_of(name)
    return recipe


def _dataset(document: Document, place: str, name: str) -> str:
    with _placed(document, place):
        source(name)
    return name


def _network(document: Document, place: str, name: str, dataset: str) -> None:
    """Refuse a network that is unknown or cannot take the data set's images, before anything runs."""
    known = source(dataset)
    with _placed(document, place):
        networks.form(name, known.classes, known.image)


def _teacher(document: Document, place: str, name: str, dataset: str) -> None:
    """The same for a teacher. An imported one must also have the name that its import printed."""
    _network(document, place, name.partition(imported.MARK)[0], dataset)
    with _placed(document, place):
        imported.cell(dataset, name)


def _seeds(document: Document, seeds: Seeds, place: str) -> Sequence[int]:
    return range(seeds) if isinstance(seeds, int) else [seed for _, seed in _items(document, seeds, place)]


def _required(document: Document, sheet: Sheet, key: str, wanted: str = "") -> Any:
    value = getattr(sheet, key)
    if value is None:
        raise document.refusal("$", f"the key {wanted or repr(key)} is missing")
    return value


def _items(document: Document, value: Any, place: str) -> list[tuple[str, Any]]:
    """One or more values, each with its place in the file. Duplicates are refused."""
    if value is None:
        return []
    if not isinstance(value, list):
        return [(place, value)]
    for i, item in enumerate(value):
        if item in value[:i]:
            raise document.refusal(f"{place}[{i}]", f"{shown(item)} is listed twice")
    return [(f"{place}[{i}]", item) for i, item in enumerate(value)]


@contextmanager
def _placed(document: Document, place: str) -> Iterator[None]:
    """Prefix a refusal with its file, line and place."""
    try:
        yield
    except Misfit as misfit:
        raise document.refusal(place + misfit.place, misfit.why) from None
    except Refusal as refusal:
        raise document.refusal(place, str(refusal)) from None
