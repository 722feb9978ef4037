"""Everything that has a name: one line each for `kdbench list`, in full for `kdbench show`."""

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec

from kdbench.benchmark import data, extensions, networks
from kdbench.benchmark.data import DATASETS
from kdbench.benchmark.data.dataset import HELD_OUT, PREFIXES
from kdbench.benchmark.document import read
from kdbench.benchmark.plans import grid as grids
from kdbench.benchmark.records.cell import called
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import parameters
from kdbench.benchmark.training.recipe import RECIPES
from kdbench.benchmark.words import readable
from kdbench.methods.chain import Chain
from kdbench.methods.method import METHODS, SOURCES, Method, hyper_parameters
from kdbench.refusal import Refusal, nearest

Row = dict[str, Any]
SHOWN_FOR = (100, (3, 32, 32))  # the classes and images for which networks are shown


def listed(noun: str) -> list[Row]:
    match noun:
        case "methods":
            rows = [{"name": name} | _method(METHODS[name]) for name in METHODS]
            return sorted(rows, key=lambda row: (row["source"] != "labels", row["source"], row["name"]))
        case "networks":
            return [{"name": name} | _listed_network(name) for name in networks.names()]
        case "datasets":
            return [{"name": name} | _dataset(name) for name in sorted(DATASETS)]
        case "recipes":
            return [{"name": name} | _recipe(name) for name in RECIPES]
        case _:
            return [
                {"name": name, "about": " ".join(read(file).convert(grids.Sheet).about.split())}
                for name, file in grids.shipped().items()
            ]


def described(name: str, results: Path, folder: Path = Path("data")) -> Row:
    """Everything known about the thing of this name."""
    if name in METHODS:
        method = METHODS[name]
        own = {key: f"{_typed(value.annotation)} = {value.default}" for key, value in hyper_parameters(method).items()}
        return {
            "method": name,
            "source": method.source,
            "about": _about(method),
            **({"paper": paper} if (paper := _paper(method)) else {}),
            "parameters": own,
            "from": extensions.origin(name),
        }
    if name.removesuffix(HELD_OUT) in DATASETS or name.partition(":")[0] in PREFIXES:
        held = {"held out": "a tenth of each class of train, used as the test set"} if name.endswith(HELD_OUT) else {}
        files = data.source(name).files
        read = {"read from": " or ".join(f"{folder}/{file}" for file in files)} if files else {}
        return {"data set": name} | _dataset(name) | held | read | {"from": extensions.origin(name)}
    if name in RECIPES:
        return {"recipe": name} | msgspec.to_builtins(RECIPES[name])
    if name in grids.shipped() or Path(name).suffix in (".yaml", ".yml"):
        grid = grids.load(name)
        return {
            "grid": name,
            "about": " ".join(grid.about.split()),
            "file": str(grids.shipped().get(name, name)),
            "cells": len(grid.cells),
            "teachers": len(grid.teachers),
        }
    store = Store(results)
    cells = called(name, store.outlines().keys() | store.failures().keys())
    if len(cells) == 1:  # an outdated cell may also have failed when it was retrained
        record, failure = (msgspec.to_builtins(found(cells[0])) for found in (store.record, store.failure))
        if record or failure:
            return dict(record | {"failed since": failure} if record and failure else record or failure)
    if networks.matching(name) is None:
        known = {*METHODS, *DATASETS, *RECIPES, *grids.shipped(), *networks.names()}
        hint = f"; {len(cells)} cells start with it" if cells else nearest(name, known)
        raise Refusal(f"unknown name '{name}'{hint}")
    chain = networks.form(name, *SHOWN_FOR)
    links = {f"{depth}": f"{type(link).__name__} → {chain.form(depth)}" for depth, link in enumerate(chain.links, 1)}
    return {"network": name} | _network(chain) | {"at": "3@32x32, 100 classes", "depths": links}


def paragraphs(row: Row, indent: str = "") -> str:
    lines = []
    for key, value in row.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", paragraphs(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], list):
            lines += [f"{indent}{key}:", *(f"{indent}  {'  '.join(map(_brief, line))}" for line in value)]
        elif isinstance(value, str) and "\n" in value:
            lines += [f"{indent}{key}:", *(f"{indent}  {line}".rstrip() for line in value.splitlines())]
        else:
            lines.append(f"{indent}{key}: {readable(value)}")
    return "\n".join(lines)


def _method(method: type[Method]) -> Row:
    defaults = ", ".join(f"{key}={value.default}" for key, value in hyper_parameters(method).items())
    return {"source": method.source, "parameters": defaults, "about": _about(method).partition("\n")[0]}


def methods_page() -> str:
    """The text of docs/methods.md, from the docstrings of all methods."""
    lines = [
        "# Methods",
        "",
        "What each method computes and its defaults, as `kdbench show NAME` prints them. `z` are logits, `F` features;",
        "`_s` marks the student's and `_t` the teacher's. Generated by `make docs` from the methods' docstrings.",
    ]
    for source in SOURCES:
        lines += ["", f"## {source.capitalize()}"]
        for name in sorted(name for name in METHODS if METHODS[name].source == source):
            method = METHODS[name]
            lines += ["", f"### {name}", "", _paper(method), "", _about(method), ""]
            lines += [f"`{name}: {{{_method(method)['parameters'].replace('=', ': ')}}}`"]
    return "\n".join(lines) + "\n"


def _about(method: type[Method]) -> str:
    """The method's own docstring, not one inherited from its base class."""
    return inspect.cleandoc(method.__doc__ or "")


def _paper(method: type[Method]) -> str:
    """The paper, from the first paragraph of the module's docstring."""
    return " ".join((inspect.getdoc(inspect.getmodule(method)) or "").partition("\n\n")[0].split())


def _listed_network(name: str) -> Row:
    try:
        return _network(networks.form(name, *SHOWN_FOR))
    except Refusal as refusal:  # a user's network for other images
        return {"parameters": "–", "MACs": "–", "embedding": "–", "stages": str(refusal)}


def _network(chain: Chain) -> Row:
    taps = " ".join(str(chain.form(depth)) for depth in chain.stages)
    return {
        "parameters": parameters(chain),
        "MACs": chain.macs,
        "embedding": chain.embedding_width,
        "stages": taps,
    }


def _dataset(name: str) -> Row:
    known = data.source(name)
    image = "x".join(map(str, known.image))
    return {"classes": known.classes, "image": image, "train": known.train, "test": known.test}


def _recipe(name: str) -> Row:
    recipe = RECIPES[name]
    keys = ("epochs", "batch", "optimizer", "lr", "schedule", "precision")
    return {key: getattr(recipe, key) for key in keys}


def _typed(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else re.sub(r"typing\.", "", str(annotation))


def _brief(value: Any) -> str:
    """Numbers get a fixed width, which aligns the columns of a matrix."""
    return f"{value:6.2f}" if isinstance(value, float) else readable(value)
