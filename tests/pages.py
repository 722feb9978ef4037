"""The pages that people read, and what is printed in them to be typed."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OF_A_CLUSTER = ("submit", "logs", "cancel", "--watch")


def blocks(page: Path, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words behind ``kdbench`` in blocks, without what explains them behind two spaces or more."""
    lines = (line for block in blocks(page) for line in block.splitlines())
    return [shlex.split(re.split(r"\s{2,}", line)[0])[1:] for line in lines if line.startswith("kdbench ")]


def needs_a_cluster(words: list[str]) -> bool:
    return any(word in OF_A_CLUSTER for word in words) and "--dry-run" not in words


def named(page: Path, name: str) -> str:
    """The block that a file's name stands above."""
    return next(block for block in blocks(page) if block.startswith(f"# {name}\n"))


def small(grid: str) -> str:
    """The README's grid, as small as a test needs it."""
    for big, little in (
        ("cifar100", "digits"),
        ("[resnet56 -> resnet20, wrn_40_2 -> wrn_16_2]", "resnet8 -> resnet8x0.25"),
        ("epochs: 10", "epochs: 1"),
        ("seeds: 3", "seeds: 1"),
    ):
        assert big in grid
        grid = grid.replace(big, little)
    return grid
