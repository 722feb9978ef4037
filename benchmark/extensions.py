"""Loads methods, networks and data sets from outside kdbench, checks them, and provides their digests for the record.

They come from files that the user names, or from installed plugins. A plugin is a package with an entry point in the
group ``kdbench``; the entry point names the module that registers them.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from kdbench.benchmark.data import DATASETS
from kdbench.benchmark.data.dataset import HELD_OUT
from kdbench.benchmark.networks.registry import FAMILIES, matching
from kdbench.methods.method import METHODS, SOURCES, Method
from kdbench.refusal import EXTENSION, Refusal, in_a_sentence

_loaded: dict[Path, str] = {}  # file → digest
_owner: dict[str, Path] = {}  # name, or pattern of names → the file that registered it
_module: dict[Path, str] = {}  # a plugin's file → the name of its module


def load(file: Path) -> None:
    """Run a Python file that registers names with kdbench's decorators. A file runs only once."""
    if not file.exists():
        raise Refusal(f"{file}: no such file")
    path = file.resolve()
    if path in _loaded:
        return
    if not path.is_file():
        raise Refusal(f"{file} must be a Python file, got a folder")
    if namesake := next((other for other in _loaded if other.name == path.name), None):
        raise Refusal(f"{file} must not share its name with another file: {namesake} is loaded too")
    spec = importlib.util.spec_from_file_location(f"{EXTENSION}{path.stem}_{_digest(path)}", path)
    if spec is None or spec.loader is None:  # judged by its suffix
        raise Refusal(f"{file} must be a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    loader = spec.loader
    _run(spec.name, str(file), lambda: loader.exec_module(module))


def _load_plugins() -> None:
    for entry in entry_points(group="kdbench"):
        path = _run(entry.module, f"the plugin '{entry.name}'", entry.load)
        _module[path] = entry.module


def _run(module: str, what: str, execute: Callable[[], object]) -> Path:
    """Execute a module that registers names, note that they are its own, and return its file."""
    before = _names()
    try:
        execute()
    except (Exception, SystemExit) as error:
        raise Refusal(f"{what} cannot be loaded: {in_a_sentence(error)}") from None
    new, file = _names() - before, getattr(sys.modules[module], "__file__", None)
    if not new or file is None:
        raise Refusal(f"{what} registers no method, network or data set")
    for name in sorted(new & METHODS.keys()):
        if re.search(r"[^\w.-]", name):
            raise Refusal(f"{what}: a method's name must consist of letters, digits, _, - and ., got '{name}'")
        _check(METHODS[name], f"{what}: {name}")
    path = Path(file).resolve()
    _loaded[path] = _digest(path)
    _owner.update(dict.fromkeys(new, path))
    return path


def _check(method: type[Method], what: str) -> None:
    """Refuse mistakes of the author that would otherwise only show at the first step."""
    if not issubclass(method, Method):
        raise Refusal(f"{what} must be a subclass of Method, got {method.__name__}")
    if (source := getattr(method, "source", None)) not in SOURCES:
        raise Refusal(f"{what}: source must be one of {', '.join(SOURCES)}, got {source!r}")
    if method.losses is Method.losses:
        raise Refusal(f"{what} must define losses()")
    others = list(inspect.signature(method).parameters.values())[3:]  # after the student, the teacher and the facts
    if loose := [one.name for one in others if one.kind is one.POSITIONAL_OR_KEYWORD]:
        raise Refusal(f"{what}: a hyper-parameter must be keyword-only, after '*' in __init__, got {', '.join(loose)}")


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


def needed(*names: str) -> dict[str, str]:
    """The files that registered these names, with their digests."""
    files = {file for file in map(_owner_of, names) if file}
    return {_name(file): _loaded[file] for file in sorted(files)}


def files() -> list[Path]:
    """All files that the user named. Other processes need this list; they find plugins by themselves."""
    return [path for path in _loaded if path not in _module]


def needs(code: dict[str, str]) -> None:
    """Refuse a cell whose files are not loaded or have changed."""
    here = {_name(path): digest for path, digest in _loaded.items()}
    for name, digest in code.items():
        if name not in here:
            raise Refusal(f"{name} must be loaded for this cell: pass it with --with")
        if here[name] != digest:
            raise Refusal(
                f"{name} must be the same as when the cell was declared (digest {digest}), got digest {here[name]}"
            )


def _name(path: Path) -> str:
    """A plugin is named by its module, since many files are called ``__init__.py``."""
    return _module.get(path, path.name)


def origin(name: str) -> str:
    return str(_owner_of(name) or "kdbench")


def _owner_of(name: str) -> Path | None:
    found = matching(name)
    return _owner.get(name.removesuffix(HELD_OUT)) or (_owner.get(found[0].pattern) if found else None)


def _names() -> set[str]:
    """All registered names. A family of networks counts by its pattern, since not all of its names are listed."""
    return {*METHODS, *DATASETS, *(family.pattern for family in FAMILIES)}


_load_plugins()
