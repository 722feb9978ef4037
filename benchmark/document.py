"""Reads YAML files that people write. Every error names the file, the line and the place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kdbench.benchmark.conversion import Misfit, convert
from kdbench.refusal import Refusal, nearest

T = TypeVar("T")
MOST_VALUES = 100_000  # after aliases are expanded; a grid that a person wrote has a few hundred
LARGEST = 2**63  # the range of integers in other programs


class Loader(yaml.SafeLoader):
    """Plain YAML 1.2: no tags, no dates, no octal numbers, no ``yes`` for true, and ``1e-3`` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's, emptied)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if tag := getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem=f"found the tag {tag}", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


for _kind, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?\d+$", list("-+0123456789")),
    ("float", r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$", list("-+.0123456789")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern, re.ASCII), _first)


@dataclass(frozen=True)
class Document:
    """A YAML file's values, and the line of each."""

    file: Path
    values: Any
    lines: dict[str, int]

    def refusal(self, place: str, why: str) -> Refusal:
        """An error that begins with the file, the line and the place. A place looks like ``$.methods[0].kd``."""
        near = place
        while near not in self.lines and near != "$":
            near = re.sub(r"(\.[^.\[]+|\[[^\[]*\])$", "", near)
        spot = place.removeprefix("$").removeprefix(".")
        return Refusal(f"{self.file}:{self.lines.get(near, 1)}: {spot + ': ' if spot else ''}{why}")

    def convert(self, kind: type[T], values: Any = None, place: str = "$") -> T:
        """Convert all values, or the given ones at ``place``, to a struct of this kind."""
        try:
            fitting: T = convert(self.values if place == "$" else values, kind, place)
        except Misfit as misfit:
            raise self.refusal(misfit.place, misfit.why) from None
        return fitting


def find(name: str, shipped: Mapping[str, Path], noun: str, folder: Path | None = None) -> Path:
    """The shipped file of this name, or the file at this path, relative to the folder."""
    if name in shipped:
        return shipped[name]
    file = (folder or Path()) / name
    if file.suffix in (".yaml", ".yml") or file.exists():
        return file
    meant = file.with_name(f"{file.name}.yaml")
    hint = f"; did you mean '{name}.yaml'?" if meant.exists() else nearest(name, shipped)
    raise Refusal(f"unknown {noun} '{name}'{hint}")


def read(file: Path) -> Document:
    """Read a YAML file. Tags, duplicate keys and aliases that expand without end are refused."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refusal(f"{file}: no such file") from None
    except IsADirectoryError:
        raise Refusal(f"{file}: must be a YAML file, got a folder") from None
    except ValueError:
        raise Refusal(f"{file}: must be a YAML file, got something that is not text") from None
    except OSError as error:
        raise Refusal(f"{file}: cannot be read: {error.strerror}") from None
    lines: dict[str, int] = {}
    try:
        node = yaml.compose(text, Loader)
        if node is None:
            raise Refusal(f"{file}: must hold keys and values, got an empty file")
        return Document(file, _values(node, "$", lines, file, ()), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refusal(f"{file}:{line}: must be plain YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{file}: must be plain YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise Refusal(f"{file}: must be YAML that a person can read, got values that are nested too deeply") from None


def _values(node: Any, place: str, lines: dict[str, int], file: Path, above: tuple[Any, ...]) -> Any:
    line = node.start_mark.line + 1
    if node in above:
        raise Refusal(f"{file}:{line}: an alias must not be inside the value that it refers to")
    if len(lines) > MOST_VALUES:
        raise Refusal(f"{file}:{line}: aliases must not expand to more than {MOST_VALUES:,} values")
    lines[place] = line
    inside = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return [_values(item, f"{place}[{i}]", lines, file, inside) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, file)
    mapping = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node, file) if isinstance(key_node, yaml.ScalarNode) else None
        spot = f"{file}:{key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            got = "a list or a mapping" if not isinstance(key_node, yaml.ScalarNode) else key_node.value or "nothing"
            raise Refusal(f"{spot}: a key must be text, got {got}")
        if key in mapping:
            raise Refusal(f"{spot}: the key '{key}' occurs twice")
        mapping[key] = _values(value_node, f"{place}.{key}", lines, file, inside)
        lines[f"{place}.{key}"] = key_node.start_mark.line + 1
    return mapping


def _scalar(node: Any, file: Path) -> Any:
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return node.value.lower() == "true"
        case "int" | "float" as kind:
            number = float(node.value)
            if not abs(number) < LARGEST:
                where = f"{file}:{node.start_mark.line + 1}"
                raise Refusal(f"{where}: a number must be between -2^63 and 2^63, got {node.value[:40]}")
            return int(node.value) if kind == "int" else number
    return node.value
