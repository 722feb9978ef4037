"""Distillation methods: one file per method, in the folder of the source of knowledge that it uses."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from kdbench.methods.chain import Chain
from kdbench.methods.combination import Combination
from kdbench.methods.method import METHODS, SOURCES, Facts, Method
from kdbench.refusal import Refusal

for _room in SOURCES:
    for _module in pkgutil.iter_modules([f"{folder}/{_room}" for folder in __path__], f"{__name__}.{_room}."):
        importlib.import_module(_module.name)


def members(name: str) -> dict[str, type[Method]]:
    """The methods in a name such as ``kd`` or ``crd+kd``."""
    parts = name.split("+")
    if len(parts) > 1 and "" in parts:
        raise Refusal(f"a combination must have a method on either side of each '+', got '{name}'")
    if len(set(parts)) < len(parts):
        raise Refusal(f"a combination must name each method once, got '{name}'")
    return {part: METHODS[part] for part in parts}


def involved(name: str, params: Mapping[str, Any]) -> list[str]:
    """All methods that run under a name: its members, and the methods that a member's parameters name."""
    each = _of_each(name, params)
    return [*each, *(own["method"] for own in each.values() if "method" in own)]


def taught(name: str) -> bool:
    """Whether any member learns from a teacher."""
    return any(method.taught for method in members(name).values())


def sources(name: str, params: Mapping[str, Any]) -> str:
    """The source of knowledge of a method, or the sources of all members of a combination."""
    try:
        return "+".join(dict.fromkeys(METHODS[part].draws_on(own) for part, own in _of_each(name, params).items()))
    except Refusal:  # the file that defines the method is not loaded
        return "other"


def _of_each(name: str, params: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parameters of each method in a name."""
    classes = members(name)
    inner = {name: params} if name in classes else params
    return {part: inner.get(part, {}) for part in classes}


def create(name: str, student: Chain, teacher: Chain, facts: Facts, **params: Any) -> Method:
    """Build the method of this name; a combination takes ``ce_weight`` and a mapping of parameters per member."""
    classes = members(name)
    if name in classes:
        return classes[name](student, teacher, facts, **params)
    ce_weight = params.pop("ce_weight", None)
    built = {part: method(student, teacher, facts, **params.get(part, {})) for part, method in classes.items()}
    return Combination(student, teacher, facts, built, ce_weight=ce_weight)


def resolve(name: str, student: Chain, teacher: Chain, facts: Facts, **params: Any) -> dict[str, Any]:
    """The parameters of a method, or of each member of a combination, with plain values."""
    classes = members(name)
    if name in classes:
        return classes[name].resolve(student, teacher, facts, **params)
    return params | {part: m.resolve(student, teacher, facts, **params.get(part, {})) for part, m in classes.items()}
