"""The code as it was when a grid was submitted: a checkout that changes while jobs wait changes nothing for them."""

import os
import zipfile
from pathlib import Path

import kdbench
from kdbench.benchmark import extensions
from kdbench.benchmark.experiments.environment import COMMIT, commit

WITHIN = "files"  # where a user's own files lie in the archive


def freeze(archive: Path) -> None:
    """One file, which each job unpacks on its own node."""
    package = Path(kdbench.__file__).parent
    # Files as Guix and Nix install them are of 1970, older than the format knows.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as frozen:
        for file in sorted(_files(package)):
            frozen.write(file, Path("kdbench") / file.relative_to(package))
        for file in extensions.files():
            frozen.write(file, Path(WITHIN) / file.name)
        frozen.writestr(COMMIT, commit())


def _files(folder: Path) -> list[Path]:
    walk = os.walk(folder, followlinks=True)  # rooms may be links
    return [Path(at, name) for at, _, names in walk if "__pycache__" not in at for name in names]
