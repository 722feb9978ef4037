"""The page in a real browser, opened from disk like a reader does. Without a browser, skipped, or failing in CI."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Record
from tests.benchmark.leaderboard.boards import page_of

Study = Callable[..., list[Record]]
Open = Callable[..., Page]
GAINS = {"kd": [1, 2], "rkd": [-1, 0], "crd": [4, 3], "kd+crd": [2, 2]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("in CI the page is tested in a real browser, but chromium is not installed")
    if program is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """The page of these records. Any other request and any console message or error fails the test."""
    wrong: list[str] = []
    contexts = []

    def visit(records: list[Record], width: int = 1200, scheme: Any = "light", drawn: bool = False) -> Page:
        file = tmp_path / "leaderboard.html"
        file.write_text(page_of(records, drawn), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(30_000)
        tab.on("request", lambda request: request.url == file.as_uri() or wrong.append(request.url))
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto(file.as_uri())
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def sheet(tab: Page, title: str = "Methods on each pair") -> Locator:
    return tab.get_by_role("region", name=title)


def column(table: Locator, place: int) -> list[str]:
    """The texts of a column in the rows of the first group; 1 is the first column."""
    return table.locator(
        f"tbody:first-of-type tr:not(.below):not(:first-child) > :nth-child({place})"
    ).all_inner_texts()


def test_a_click_on_a_column_sorts_by_it_a_second_turns_it_and_a_third_undoes_it(opened: Open, study: Study) -> None:
    table = sheet(opened(study(GAINS)))
    gain, as_it_was = table.get_by_role("button", name="over ce"), column(table, 1)
    heading = table.get_by_role("columnheader", name="over ce")
    assert as_it_was == ["ce", "kd", "crd", "rkd", "kd+crd"]
    for order, state in ((["crd", "kd+crd", "kd", "rkd"], "descending"), (["rkd", "kd", "kd+crd", "crd"], "ascending")):
        gain.press("Enter")
        assert column(table, 1) == [*order, "ce"]  # ce has no gain and comes last in either direction
        assert heading.get_attribute("aria-sort") == state
    gain.click()
    assert column(table, 1) == as_it_was and heading.get_attribute("aria-sort") == "none"
    table.get_by_role("button", name="method").click()
    assert column(table, 1) == ["ce", "crd", "kd", "kd+crd", "rkd"]


def test_search_and_choice_leave_the_rows_that_are_meant(opened: Open, study: Study) -> None:
    tab = opened(study(GAINS, ("resnet8x0.25", "resnet8")))
    table = sheet(tab)
    part = tab.locator("#results > section", has=table)
    count = part.get_by_role("status")
    assert count.inner_text() == "10 of 10 rows"
    part.get_by_label("Search").fill("KD")
    assert count.inner_text() == "6 of 10 rows"
    part.get_by_role("combobox", name="Pair").select_option("big → resnet8")
    part.get_by_role("combobox", name="Source").select_option("logits")
    assert count.inner_text() == "1 of 10 rows" and column(table, 1) == ["kd"]
    part.get_by_role("combobox", name="Source").select_option("labels")
    assert table.get_by_text("No rows match.").is_visible()
    part.get_by_label("Search").fill("")
    assert column(table, 1) == ["ce"]


def test_a_record_is_two_clicks_away_and_escape_leads_back(opened: Open, study: Study) -> None:
    records = study(GAINS)
    tab = opened(records)
    row = sheet(tab).get_by_role("button", name="crd", exact=True)
    row.click()
    assert row.get_attribute("aria-expanded") == "true"
    wanted = next(record for record in records if (record.cell.method, record.cell.seed) == ("crd", 1))
    button = sheet(tab).get_by_role("button", name=f"record {wanted.id}")
    button.click()
    dialog = tab.get_by_role("dialog", name=wanted.id)
    assert dialog.locator("pre").text_content() == pretty(wanted).decode()
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert button.evaluate("element => element === document.activeElement")
    row.click()
    assert not button.is_visible() and row.get_attribute("aria-expanded") == "false"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_until_the_reader_chooses(opened: Open, study: Study, scheme: str) -> None:
    tab = opened(study(GAINS), scheme=scheme, drawn=True)

    def lightness() -> list[bool]:
        """Whether the page, the text in a picture and the picture's background are light."""
        colours = tab.evaluate(
            """() => [[document.body, "backgroundColor"], [document.querySelector("svg text"), "fill"],
                      [document.querySelector("svg path"), "fill"]].map(([on, what]) => getComputedStyle(on)[what])"""
        )
        return [sum(map(int, colour[4:-1].split(","))) > 3 * 128 for colour in colours]

    light = scheme == "light"
    assert lightness() == [light, not light, light]
    tab.get_by_role("button", name="Dark" if light else "Light").click()
    assert lightness() == [not light, light, not light]


@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_is_as_wide_as_the_window_and_tables_scroll_inside(opened: Open, study: Study, width: int) -> None:
    long = study({"kd": [1, 2]}, protocol="a-recipe-with-a-rather-long-name" * 3)
    tab = opened(study(GAINS, ("resnet8x0.25", "resnet8")) + long, width=width, drawn=True)
    sheet(tab).get_by_role("button", name="crd", exact=True).first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    inside = sheet(tab).evaluate("element => element.scrollWidth > element.clientWidth")
    assert inside == (width == 360)
    sheet(tab).get_by_role("button", name="record ").first.click()
    box = tab.get_by_role("dialog").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_what_strangers_wrote_stays_text(opened: Open, hostile: list[Record]) -> None:
    tab = opened(hostile, drawn=True)
    assert tab.title() == "Leaderboard"
    name = hostile[0].origin
    row = sheet(tab).get_by_role("button").get_by_text("onerror").or_(sheet(tab).locator("th.first button")).last
    assert row.text_content() == name
    row.click()
    sheet(tab).get_by_role("button", name="record ").first.click()
    assert '"origin": "</script><img src=x' in (tab.locator("dialog pre").text_content() or "")
    assert tab.locator("img").count() == 0 and tab.title() == "Leaderboard"


def test_the_first_key_offers_a_way_past_the_heading(opened: Open, study: Study) -> None:
    tab = opened(study(GAINS))
    tab.keyboard.press("Tab")
    skip = tab.get_by_role("link", name="Skip to the results")
    assert skip.evaluate("element => element === document.activeElement && element.getBoundingClientRect().x >= 0")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "results"


def test_of_very_many_rows_the_first_are_shown_until_all_are_asked_for(
    opened: Open, make_cell: Callable[..., Any], make_record: Callable[..., Record]
) -> None:
    cells = [make_cell("kd", "big", params={"temperature": 1 + step / 100}) for step in range(400)]
    tab = opened([make_record(cell, top1=50 + step / 10) for step, cell in enumerate(cells)])
    table = sheet(tab)
    assert len(column(table, 1)) == 300
    tab.get_by_role("button", name="Show all 400 rows").first.click()
    assert len(column(table, 1)) == 400
