"""The page as text: its sentences, its data, and its protection against content of records."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kdbench.benchmark.leaderboard import page as module
from kdbench.benchmark.leaderboard.headline import headlines
from kdbench.benchmark.leaderboard.publish import publish
from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.recipe import Recipe
from tests.benchmark.leaderboard.boards import board_of, page_of

Study = Callable[..., list[Record]]


def carried(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text)
    assert found
    assert "\u2028" not in found[1] and "<" not in found[1]
    return json.loads(found[1])


def test_the_order_of_records_changes_no_byte(study: Study) -> None:
    records = study({"kd": [1, 2, 4], "rkd": [0, 1, 2]}, ("resnet8x0.25", "resnet8"))
    assert page_of(records, drawn=True) == page_of(records[::-1], drawn=True)


def test_nothing_is_loaded_from_anywhere(study: Study) -> None:
    text = page_of(study({"kd": [1, 2]}), drawn=True)
    assert set(re.findall(r'(?:src|href)="([^"#]*)', text)) <= {""}
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r'"(http[^"]*)"', text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_no_script_runs_but_the_pages_own(hostile: list[Record]) -> None:
    text = page_of(hostile, drawn=True)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert text.count("<script") == 3 and "<img" not in text
    assert escape(hostile[0].origin)[:30] in text


def test_a_record_is_carried_as_its_file_says_it(hostile: list[Record]) -> None:
    assert carried(page_of(hostile), "records") == {record.id: pretty(record).decode() for record in hostile}


def test_what_does_not_fit_is_left_out_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch, study: Study) -> None:
    records = {record.id: record for record in study({"kd": [1, 2]})}
    whole, about = module.embedded(records, set(records))
    assert len(json.loads(whole)) == 4 and about.startswith("All records are in this page:")
    monkeypatch.setattr(module, "MOST_BYTES", len(whole) - 1)
    brief, about = module.embedded(records, set(records))
    first = json.loads(json.loads(brief)[min(records)])
    assert (first["result"]["curves"]["top1"], first["result"]["top1"]) == ([], records[min(records)].result.top1)
    assert "every epoch are left out" in about
    monkeypatch.setattr(module, "MOST_BYTES", len(brief) - 1)
    assert module.embedded(records, set(records))[0] == "{}"
    assert module.embedded({}, set(records))[1].startswith("Records and their curves are not in this page")


def test_what_cannot_fit_is_not_written_out_to_be_thrown_away(monkeypatch: pytest.MonkeyPatch, study: Study) -> None:
    records = {record.id: record for record in study({"kd": [1, 2]})}
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    monkeypatch.setattr(module, "pretty", None)  # any attempt to write one out fails
    assert module.embedded(records, set(records))[0] == "{}"


STUDENTS = ("resnet8x0.25", "resnet8", "resnet8x0.5")


def test_every_row_has_its_seeds(study: Study) -> None:
    over_pairs, on_each, cost = carried(page_of(study({"kd": [1, 3]}, STUDENTS)), "tables")
    names = [column["name"] for column in on_each["columns"]]
    assert names == ["method", "source", "n", "top-1", "over ce", "over kd", "best epoch", "time × ce"]
    assert [group["names"] for group in on_each["groups"]] == [
        ["digits", f"big → {student}", "tiny", "teacher top-1: 90.00"] for student in sorted(STUDENTS)
    ]
    kd = on_each["groups"][1]["rows"][1]
    assert kd["cells"][:4] == ["kd", "logits", [2, "2"], [52.5, "52.50 ± 2.12"]] and kd["cells"][4][0] == 2
    assert [[value for value, _ in seed["cells"][:3]] for seed in kd["seeds"]] == [[0, 51, 1], [1, 54, 3]]
    assert over_pairs["groups"][0]["rows"][1]["cells"][:3] == ["kd", "logits", [3, "3"]]
    assert over_pairs["groups"][0]["names"][2].startswith("3 pairs are too few: with so many gains")
    assert "images/s" in [column["name"] for column in cost["columns"]]


def test_the_headline_says_who_leads_and_how_sure_that_is(study: Study) -> None:
    """kd has the mean 6, the deviation √½, and ± 2.776 · √½ / √5 = 0.88. Its lead is 4, with the same interval."""
    ((said, notes),) = headlines(board_of(study({"rkd": [1, 2, 3, 1, 3], "kd": [5, 6, 7, 6, 6]})))
    assert said == (
        "On digits, knowledge from logits gains most: +6.00 points of top-1 over labels only "
        "(95% interval +5.12 to +6.88 over 5 seeds)."
    )
    assert "The gain of a source is the mean over its methods: for logits only kd; for relations only rkd." in notes
    assert "Next: relations, +2.00; 4.00 ± 0.88 behind on the same seeds." in notes
    assert "One pair says nothing about other pairs." in notes
    ((said, _),) = headlines(board_of(study({"kd": [-3, -2, -4, -2, -4], "rkd": [-9, -8, -9, -8, -9]})))
    assert said.startswith("On digits, knowledge from logits loses least: −3.00 points")


def test_nor_is_it_sure_where_one_seed_did_it_on_all_pairs(study: Study) -> None:
    """kd gains 2 on each of five pairs, but 4.5 and -0.5 by seed: 2 ± 12.706 · 3.54 / √2."""
    students = ("resnet8x0.25", "resnet8", "resnet14", "resnet20", "resnet8x2")
    records = study({"kd": [2.5, -2.5], "rkd": [-9, -9]}, students)
    ((said, _),) = headlines(board_of(records))
    assert said.startswith("On digits, the result is still undecided. Knowledge from logits is ahead: +2.00 points")
    assert "(95% interval by seed −29.77 to +33.77 over 5 pairs)" in said


@pytest.mark.parametrize(
    ("gains", "ahead"),
    [
        ({"kd": [-3, 1, -4]}, "Knowledge from logits loses least: −2.00"),
        ({"kd": [1]}, "Knowledge from logits is ahead: +1.00"),
        (
            {"kd": [5, 6, 7, 6], "rkd": [0, 0, 1, 1]},
            "Knowledge from logits is ahead: +6.00",
        ),  # fewer seeds than a ★ needs
        ({"kd": [5, 6, 7, 6, 6]}, "Knowledge from logits is ahead: +6.00"),  # no second source
        (
            {"kd": [5, 6, 7, 6, 6], "rkd": [1, 11, 2, 9, 2]},
            "Knowledge from logits is ahead: +6.00",
        ),  # the lead over relations is not sure
    ],
)
def test_the_headline_decides_nothing_that_chance_may_have_made(
    gains: dict[str, list[float]], ahead: str, study: Study
) -> None:
    ((said, _),) = headlines(board_of(study(gains)))
    assert said.startswith(f"On digits, the result is still undecided. {ahead} points")


def test_nor_that_one_gains_most_where_the_next_is_ahead_on_the_same_units(study: Study) -> None:
    """rkd ran on the seeds only on which kd gains little."""
    records = study({"kd": [1, 1.1, 0.9, 1, 1.2, 9, 9.1, 8.9, 9, 9], "rkd": [3, 3, 2.9, 3, 3.2, 0, 0, 0, 0, 0]})
    records = [record for record in records if record.cell.method != "rkd" or record.cell.seed < 5]
    ((said, notes),) = headlines(board_of(records))
    assert said.startswith("On digits, the result is still undecided. Knowledge from logits is ahead: +5.02 points")
    assert "Next: relations, +3.02; 1.98 ± 0.06 ahead on the 5 seeds of both." in notes


def test_nor_what_the_number_of_weak_methods_has_made(study: Study) -> None:
    """A source that is ahead only because another has a weak method next to the best one of all."""
    ((said, notes),) = headlines(
        board_of(study({"rkd": [5, 6, 7, 6, 6], "kd": [9, 8, 9, 8, 9], "dkd": [1, 2, 0, 1, 1]}))
    )
    assert said.startswith("On digits, the result is still undecided. Knowledge from relations is ahead: +6.00 points")
    assert said.endswith("But the best method uses logits: kd, +8.60.")
    assert "for logits 2 methods, from +1.00 (dkd) to +8.60 (kd)." in notes


def test_the_headline_compares_the_same_methods_and_says_what_it_left_out(study: Study) -> None:
    """dkd did not run on the last seed. With kd only on that seed, the mean of logits would be 7 instead of 3."""
    records = study({"rkd": [1, 2, 3], "kd": [4, 4, 19], "dkd": [1, 3, 0]})[:-1]
    ((said, notes),) = headlines(board_of(records))
    assert "Knowledge from logits is ahead: +3.00 points" in said and "over 2 seeds" in said
    assert "for logits 2 methods, from +2.00 (dkd) to +4.00 (kd), on the 2 of 3 seeds on which all of them ran" in notes
    assert "Next: relations, +2.00; 1.50 behind on the 2 seeds of both." in notes


def test_the_headline_says_whom_it_left_out_where_methods_share_no_seed(study: Study) -> None:
    records = study({"kd": [1, 2, 0], "dkd": [0, 0, 9]})
    ran = {"ce": (0, 1, 2), "kd": (0, 1), "dkd": (2,)}
    ((said, notes),) = headlines(board_of([one for one in records if one.cell.seed in ran[one.cell.method]]))
    assert "Knowledge from logits is ahead: +1.50 points" in said and "over 2 seeds" in said
    assert "for logits only kd, of 2 that share no seed." in notes


def test_a_lead_over_the_same_units_is_the_difference_of_the_means_shown(study: Study) -> None:
    """On the last seed only dkd and ce ran, as in a grid that is still running."""
    records = study({"rkd": [1, 2, 9], "kd": [6, 7, 9], "dkd": [2, 3, 0]})
    records = [record for record in records if record.cell.seed < 2 or record.cell.method in ("ce", "dkd")]
    ((said, notes),) = headlines(board_of(records))
    assert "Knowledge from logits is ahead: +4.50" in said
    assert "Next: relations, +1.50; 3.00 behind on the same seeds." in notes


def test_of_a_data_set_the_headline_tells_the_recipe_by_which_most_was_run(study: Study, recipe: Recipe) -> None:
    """Otherwise a data set with three recipes would leave no room for other data sets."""
    few = study({"kd": [1, 2]}, recipe=replace(recipe, epochs=9), protocol="another")
    for records in (few + study({"kd": [3, 4, 5]}), study({"kd": [3, 4, 5]}) + few):
        ((said, notes),) = headlines(board_of(records))
        assert "+4.00 points" in said and notes.startswith("Recipe tiny.")


def test_a_student_that_ran_by_one_method_alone_is_no_second_pair(study: Study) -> None:
    """For example the record of a teacher, or the first one of a pair that is still to be run."""
    records = study({"kd": [3, 4, 5]})
    alone = study({"kd": [0]}, ("resnet20",))[:1]
    assert headlines(board_of(records + alone)) == headlines(board_of(records))


def test_without_a_reference_nothing_is_claimed(study: Study) -> None:
    ((said, _),) = headlines(board_of(study({"kd": [1, 2]})[1::2]))
    assert said == "On digits, no gain can be computed yet."


def test_of_pairs_that_share_no_method_only_gains_over_pairs_are_missing(study: Study) -> None:
    methods = {"resnet8x0.25": "kd", "resnet8": "rkd", "resnet14": "dkd"}
    ((said, notes),) = headlines(
        board_of([one for student, method in methods.items() for one in study({method: [1, 2]}, (student,))])
    )
    assert said == "On digits, no gain over pairs can be computed yet."
    assert notes.endswith("On big → resnet14, dkd comes first, +1.50 ± 6.35.")


def test_the_page_and_its_pictures_are_published_beside_the_tables(
    tmp_path: Path, pictures: None, study: Study
) -> None:
    for record in study({"kd": [1, 2], "rkd": [0, 3]}):
        Store(tmp_path).finish(record)
    published = publish(tmp_path, None)
    published.write()
    assert (tmp_path / "leaderboard.html").read_text().startswith("<!doctype html>")
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == {
        f"{name}-digits-tiny.{form}" for name in ("sources", "gains", "throughput", "curves") for form in ("svg", "png")
    }
