"""The environment in which a cell runs: the machine and the code, for its record."""

import contextlib
import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch

import kdbench
from kdbench.benchmark.records.record import Environment
from kdbench.benchmark.training.engine import Engine, processor

COMMIT = "kdbench.commit"  # the file beside the package that holds the commit, if the code is a copy of a checkout


def environment(engine: Engine, precision: str, **facts: Any) -> Environment:
    """The environment of this process. ``facts`` are further things that may change the last bits of this run."""
    arithmetic = engine.arithmetic(precision) | facts
    key = hashlib.blake2b(msgspec.json.encode(arithmetic, order="sorted"), digest_size=4).hexdigest()
    return Environment(
        key=key,
        arithmetic=arithmetic,
        machine=machine(),
        versions={"python": platform.python_version(), "kdbench": kdbench.__version__}  # the code's, installed or not
        | {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")},
        git=commit(),
        finished=now(),
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def machine() -> dict[str, Any]:
    facts: dict[str, Any] = {"system": platform.platform(), "cpu": processor(), "cores": psutil.cpu_count()}
    facts["memory_gb"] = round(psutil.virtual_memory().total / 2**30)
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return facts


@cache
def commit() -> str:
    """The commit of the running code, marked if files have changed since; empty if unknown."""
    with contextlib.suppress(FileNotFoundError):
        return (Path(kdbench.__file__).parents[1] / COMMIT).read_text()
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a venv may be inside another project's checkout
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", "../../methods", "../../src")
        return git("rev-parse", "HEAD") + ("+changed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
