"""Methods, networks and data sets from files outside kdbench: loaded, checked and named in the record."""

import hashlib
import importlib.util
import sys
from pathlib import Path

from kdbench.benchmark import networks
from kdbench.benchmark.data import DATASETS
from kdbench.benchmark.data.dataset import HELD_OUT
from kdbench.methods.method import METHODS
from kdbench.methods.refusal import Refusal

_loaded: dict[Path, str] = {}  # file → digest
_owner: dict[str, Path] = {}  # name → the file that registered it


def load(file: Path) -> None:
    """Run a Python file that registers names by the same decorators as ours; once only."""
    if not file.exists():
        raise Refusal(f"{file}: no such file")
    path = file.resolve()
    if path in _loaded:
        return
    if not path.is_file():
        raise Refusal(f"{file} must be a Python file, got a folder")
    if namesake := next((other for other in _loaded if other.name == path.name), None):
        raise Refusal(f"{file} must not have the name of another: {namesake} is loaded too")
    before = _names()
    digest = hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()
    spec = importlib.util.spec_from_file_location(f"kdbench_extension_{path.stem}_{digest}", path)
    if spec is None or spec.loader is None:  # by its name
        raise Refusal(f"{file} must be a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        why = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        raise Refusal(f"{file} cannot be loaded: {why}") from None
    new = _names() - before
    if not new:
        raise Refusal(f"{file} registers no method, network or data set")
    _loaded[path] = digest
    _owner.update(dict.fromkeys(new, path))


def needed(*names: str) -> dict[str, str]:
    """The files that these names came from, and their digests."""
    files = {_owner[name] for name in (name.removesuffix(HELD_OUT) for name in names) if name in _owner}
    return {file.name: _loaded[file] for file in sorted(files)}


def files() -> list[Path]:
    """All that were loaded: a worker process loads them too."""
    return list(_loaded)


def origin(name: str) -> str:
    return str(_owner[name]) if name in _owner else "kdbench"


def _names() -> set[str]:
    return {*METHODS, *DATASETS, *networks.names()}
