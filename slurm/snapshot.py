"""A copy of the code at the time of submission: changes to the checkout do not affect waiting jobs."""

import os
import zipfile
from pathlib import Path

import kdbench
from kdbench.benchmark import extensions
from kdbench.benchmark.records.environment import COMMIT, commit

WITHIN = "files"  # the folder of the user's files in the archive


def freeze(archive: Path) -> None:
    """Write the code to one file, which each job unpacks on its own node."""
    package = Path(kdbench.__file__).parent
    # Guix and Nix date files to 1970, which the format cannot represent.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as frozen:
        for file in sorted(_files(package)):
            frozen.write(file, Path("kdbench") / file.relative_to(package))
        for file in extensions.files():
            frozen.write(file, Path(WITHIN) / file.name)
        frozen.writestr(COMMIT, commit())


def _files(folder: Path) -> list[Path]:
    walk = os.walk(folder, followlinks=True)  # subpackages may be links
    return [Path(at, name) for at, _, names in walk if "__pycache__" not in at for name in names]
