"""What the pages say is so: links lead somewhere, commands parse, and what is made from the code is up to date."""

import re
import shlex
from pathlib import Path

import click
import pytest

from kdbench.benchmark.catalogue import methods_page
from kdbench.benchmark.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(page: Path) -> list[str]:
    """Those in blocks, without what explains them behind two spaces or more."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = (line for block in blocks for line in block.splitlines())
    return [re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("kdbench ")]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(command)[1:]
        verb: click.Command = app
        while isinstance(verb, click.Group):
            name = words.pop(0)
            found = verb.get_command(click.Context(verb), name)
            assert found, f"{command}: there is no verb {name}"
            verb = found
        above = click.Context(app, **app.context_settings)  # a verb keeps the names of its help from its first context
        verb.make_context(verb.name, words, parent=above)  # an unknown option or a missing argument is an error


def test_the_pages_have_commands_at_all() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 10


def test_the_page_of_methods_is_what_methods_say_of_themselves() -> None:
    assert (ROOT / "docs" / "methods.md").read_text() == methods_page(), "run make docs"
