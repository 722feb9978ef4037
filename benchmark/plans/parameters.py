"""A method's hyper-parameters, checked against the types that its constructor declares."""

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints

import msgspec

from kdbench.benchmark.conversion import Misfit, convert
from kdbench.methods import members
from kdbench.methods.method import METHODS, Method, hyper_parameters
from kdbench.refusal import Refusal, nearest


def complete(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """All hyper-parameters of a method. Given values are checked; the others have their defaults.

    A combination takes ``ce_weight``, and a mapping of parameters under the name of each member.
    """
    classes = members(name)
    if name in classes:
        return _complete(name, classes[name], params, "")
    for key in params:
        if key not in classes and key != "ce_weight":
            raise Misfit(f".{key}", f"{name} has no parameter '{key}'{nearest(key, [*classes, 'ce_weight'])}")
    ce_weight = convert(params.get("ce_weight"), float | None, ".ce_weight")
    inner = {part: convert(params.get(part) or {}, dict[str, Any], f".{part}") for part in classes}
    return {"ce_weight": ce_weight} | {
        part: _complete(part, method, inner[part], f".{part}") for part, method in classes.items()
    }


def shown(name: str, params: dict[str, Any]) -> str:
    """A method's name with the parameters that differ from their defaults: ``kd(temperature=2.0)``,
    ``crd+kd(kd.weight=1.0)``."""
    try:
        defaults = _plain(complete(name, {}))
    except Refusal:  # a method from a file that is not loaded now
        return name
    unusual = ", ".join(_unusual(_plain(params), defaults))
    return f"{name}({unusual})" if unusual else name


def _unusual(params: dict[str, Any], defaults: dict[str, Any], member: str = "") -> Iterator[str]:
    for key, value in params.items():
        default = defaults.get(key, ...)
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _unusual(value, default, f"{member}{key}.")
        elif value != default:
            yield f"{member}{key}={value}"


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters as a record has them: tuples become lists."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(params))
    return plain


@cache
def _declared(method: type[Method]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """A method's hyper-parameters and their types. Cached, since every record that is shown needs them."""
    return hyper_parameters(method), get_type_hints(method.__init__)


def _complete(name: str, method: type[Method], params: dict[str, Any], place: str) -> dict[str, Any]:
    known, types = _declared(method)  # type: ignore[arg-type]  # mypy takes the hash of a method for that of its class
    for key in params:
        if key not in known:
            raise Misfit(f"{place}.{key}", f"{name} has no parameter '{key}'{nearest(key, known)}")
    values = {key: parameter.default for key, parameter in known.items()} | params
    for key, value in values.items():
        if value is inspect.Parameter.empty:
            raise Misfit(f"{place}.{key}", f"{name} has no default for '{key}': it must be given")
    values = {key: convert(value, types.get(key, Any), f"{place}.{key}") for key, value in values.items()}
    if "method" in values and values.get("params"):  # of a method inside this one: those not given stay open
        inner = _complete(values["method"], METHODS[values["method"]], values["params"], f"{place}.params")
        values["params"] = {key: inner[key] for key in values["params"]}
    return values
