"""What the pages say is so: links lead somewhere, commands parse, and what is made from the code is up to date."""

import re
from pathlib import Path
from typing import get_type_hints

import click
import pytest

from kdbench.benchmark.catalogue import methods_page
from kdbench.benchmark.cli import app
from kdbench.benchmark.comparison.replica import opened, report
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from tests.pages import PAGES, ROOT, commands

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
RESULTS = (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page: Path) -> None:
    for command in commands(page):
        words = list(command)
        verb: click.Command = app
        while isinstance(verb, click.Group):
            name = words.pop(0)
            found = verb.get_command(click.Context(verb), name)
            assert found, f"{command}: there is no verb {name}"
            verb = found
        above = click.Context(app, **app.context_settings)  # a verb keeps the names of its help from its first context
        verb.make_context(verb.name, words, parent=above)  # an unknown option or a missing argument is an error


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_paragraph_stops_in_the_middle_of_a_sentence(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for paragraph in re.split(r"\n{2,}", prose.strip()):
        assert paragraph.startswith(("#", "    ")) or re.search(r"[^\w,;]$", paragraph), paragraph


def test_the_pages_have_commands_at_all() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 10


def test_the_fields_of_a_record_are_those_that_the_page_names() -> None:
    named = re.findall(r"`([a-z_.0-9]+)`", "".join(re.findall(r"^\| (`.*?) \|", RESULTS, flags=re.MULTILINE)))
    fields = [name.split(".") for name in named if name.split(".")[0] in Record.__struct_fields__]
    assert len(fields) > 20
    for first, *rest in fields:
        kind = get_type_hints(Record)[first]
        assert all(name in kind.__struct_fields__ for name in rest), (first, rest)


def test_the_page_of_methods_is_what_methods_say_of_themselves() -> None:
    assert (ROOT / "docs" / "methods.md").read_text() == methods_page(), "run make docs"


def test_the_table_and_the_gains_of_the_readme_are_those_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text()
    board, claims = ((ROOT / "results" / page).read_text() for page in ("leaderboard.md", "reproduce-claims.md"))
    (table,) = re.findall(r"^\| source .*\n(?:\|.*\n)+", readme, flags=re.MULTILINE)
    assert table in board[board.index("## cifar100 · resnet20 → resnet8 · ") :].split("\n## ")[0]
    gains = re.findall(r"([+−]?)(\d+\.\d+ ± \d+\.\d+)", readme.replace(table, ""))
    assert len(gains) > 5
    for sign, gain in gains:  # in a sentence, what is gained has no sign
        assert (sign or "+").replace("−", "-") + gain in board + claims


def test_what_is_told_of_two_processors_is_what_their_records_say() -> None:
    page = " ".join((ROOT / "docs/statistics.md").read_text().split())
    with opened(ROOT / "results/replicas/digits-intel-xeon.zip") as theirs:
        said = report(Store(ROOT / "results"), theirs).close
    ((cells, same),) = re.findall(r"(\d+) cells in both: (\d+) with the same weights", said)
    sgd, adamw, tasks = re.findall(r"is ([\d.]+) points .* and ([\d.]+) between", said)
    ((means, apart, chance),) = re.findall(r"(\d+) means .* (\d+) differ .*about (\d+) by chance\), 0 of them", said)
    over_ce, over_kd = re.findall(r"of (\d+) gains over .. with a ★ on either side, (\d+) have it on both, and 0", said)
    assert same == "0"
    assert f"None of the {cells} cells has the same weights" in page
    for runs, (again, seeds) in {"SGD": sgd, "AdamW": adamw, "classes task by task": tasks}.items():
        assert f"| {runs} | {again} | {seeds} |" in page
    assert f"{apart} of {means} differ by more than their interval (about {chance} by chance)" in page
    assert f"{over_ce[0]} gains over `ce` have a ★ on either side: {over_ce[1]} have it on both" in page
    assert f"{over_kd[0]} gains over `kd` have a ★ on either side: {over_kd[1]} have it on both" in page
    with opened(ROOT / "results/replicas/fashion-mnist-intel-xeon.zip") as theirs:
        said = report(Store(ROOT / "results"), theirs).close
    ((cells, again, seeds),) = re.findall(
        r"(\d+) cells in both: 0 .* is ([\d.]+) points .* and ([\d.]+) between", said, re.DOTALL
    )
    assert f"None of the {cells} cells has the same weights" in page
    assert f"difference is {again} points between two runs of a cell and {seeds} points between two seeds" in page
