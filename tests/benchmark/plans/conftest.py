"""Grids in files."""

from collections.abc import Callable
from pathlib import Path

import pytest

WriteGrid = Callable[..., Path]


@pytest.fixture
def write_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteGrid:
    """A grid in the working folder: one that is right but for what is changed or added; ``None`` leaves a key out."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | None = None, name: str = "grid.yaml", **changes: str | None) -> Path:
        right: dict[str, str | None] = {
            "datasets": "digits",
            "pairs": "resnet14x0.5 -> resnet8x0.25",
            "methods": "[ce, kd]",
            "recipe": "quick",
        }
        lines = [f"{key}: {value}\n" for key, value in (right | changes).items() if value is not None]
        file = Path(name)
        file.write_text("".join(lines) if text is None else text)
        return file

    return write
