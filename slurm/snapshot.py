"""The code as it was when a grid was submitted: a checkout that changes while jobs wait changes nothing for them."""

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
    """Rooms may be links: they are followed."""
    found = []
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found += _files(entry)
        elif entry.is_file():
            found.append(entry)
    return found
