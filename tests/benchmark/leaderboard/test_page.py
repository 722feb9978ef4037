"""The page, read as text: what it says, what it carries, and what it does not let in."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest

from kdbench.benchmark.experiments.record import Record
from kdbench.benchmark.experiments.store import Store, pretty
from kdbench.benchmark.leaderboard import page as module
from kdbench.benchmark.leaderboard.album import album
from kdbench.benchmark.leaderboard.headline import headlines
from kdbench.benchmark.leaderboard.page import page
from kdbench.benchmark.leaderboard.publish import publish
from tests.benchmark.leaderboard.boards import board_of

Study = Callable[..., list[Record]]


def made(records: list[Record], folder: Path) -> str:
    known, found = {record.id: record for record in records}, board_of(records)
    return page(found, album(found, known, Store(folder)), known, "Leaderboard")


def carried(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text)
    assert found
    return json.loads(found[1])


def test_the_order_of_records_changes_no_byte(tmp_path: Path, study: Study) -> None:
    records = study({"kd": [1, 2, 4], "rkd": [0, 1, 2]}, ("resnet8x0.25", "resnet8"))
    assert made(records, tmp_path) == made(records[::-1], tmp_path)


def test_nothing_is_loaded_from_anywhere(tmp_path: Path, study: Study) -> None:
    text = made(study({"kd": [1, 2]}), tmp_path)
    assert set(re.findall(r'(?:src|href)="([^"#]*)', text)) <= {""}
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r'"(http[^"]*)"', text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_no_script_runs_but_the_pages_own(tmp_path: Path, hostile: list[Record]) -> None:
    text = made(hostile, tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert text.count("<script") == 3 and "<img" not in text and "\u2028" not in text
    assert escape(hostile[0].origin)[:30] in text


def test_a_record_is_carried_as_its_file_says_it(tmp_path: Path, hostile: list[Record]) -> None:
    assert carried(made(hostile, tmp_path), "records") == {record.id: pretty(record).decode() for record in hostile}


@pytest.mark.parametrize(
    ("room", "whole", "said"),
    [(10**6, [50.0, 50.0], "All records are in"), (9_000, [], "every epoch is left out"), (100, None, "not in")],
)
def test_what_does_not_fit_is_left_out_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch, study: Study, room: int, whole: list[float] | None, said: str
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", room)
    records = {record.id: record for record in study({"kd": [1, 2]})}
    texts, about = module.embedded(records, set(records))
    found = json.loads(texts)
    assert said in about
    assert len(found) == (0 if whole is None else 4)
    if whole is not None:
        first = json.loads(found[next(id for id in found if id.startswith("digits-resnet8x0.25-ce-s0"))])
        assert first["result"]["curves"]["top1"] == whole and first["result"]["top1"] == 50


def test_every_row_has_its_seeds(tmp_path: Path, study: Study) -> None:
    over_pairs, on_each, cost = carried(made(study({"kd": [1, 3]}, ("resnet8x0.25", "resnet8")), tmp_path), "tables")
    names = [column["name"] for column in on_each["columns"]]
    assert names == ["method", "source", "n", "top-1, %", "over ce", "over kd", "best epoch, %", "time × ce"]
    assert [group["names"] for group in on_each["groups"]] == [
        ["digits", f"big → {student}", "tiny"] for student in ("resnet8", "resnet8x0.25")
    ]
    kd = on_each["groups"][1]["rows"][1]
    assert kd["cells"][:3] == ["kd", "logits", 2] and kd["cells"][3][0] == 52.5 and kd["cells"][4][0] == 2
    assert [seed["cells"][:3] for seed in kd["seeds"]] == [[0, 51, 1], [1, 54, 3]]
    assert over_pairs["groups"][0]["rows"][1]["cells"][:3] == ["kd", "logits", 2]
    assert "images/s" in [column["name"] for column in cost["columns"]]


def test_the_headline_says_who_leads_and_how_sure_that_is(study: Study) -> None:
    """rkd gains 1, 2 and 3: mean 2, deviation 1, half of the interval 4.303 / √3 = 2.48. kd's lead is 4, 4 and 4."""
    ((said, notes),) = headlines(board_of(study({"rkd": [1, 2, 3], "kd": [5, 6, 7]})))
    assert said == (
        "On digits, knowledge from logits gains most: +6.00 points of top-1 against labels alone "
        "(95% interval +3.52 to +8.48 over 3 seeds)."
    )
    assert "Next: relations, +2.00; on the same seeds 4.00 ± 0.00 behind." in notes
    assert "One pair speaks for no other." in notes and "chance" not in notes
    ((said, notes),) = headlines(board_of(study({"kd": [-3, 1, -4]})))
    assert "knowledge from logits loses least: −2.00" in said and "chance may have made all of it" in notes


def test_without_a_reference_nothing_is_claimed(study: Study) -> None:
    ((said, _),) = headlines(board_of(study({"kd": [1, 2]})[1::2]))
    assert said == "On digits there is no gain to speak of yet."


def test_the_page_and_its_pictures_are_published_beside_the_tables(tmp_path: Path, study: Study) -> None:
    for record in study({"kd": [1, 2], "rkd": [0, 3]}):
        Store(tmp_path).finish(record)
    published = publish(tmp_path, None)
    published.write()
    assert (tmp_path / "leaderboard.html").read_text().startswith("<!doctype html>")
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == {
        f"{name}-digits-tiny.{form}" for name in ("sources", "gains", "throughput", "curves") for form in ("svg", "png")
    }
    assert publish(tmp_path, None).outdated() == []
