"""Pictures: their data, their readability, and the same bytes each time."""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from kdbench.benchmark.leaderboard import drawing, evidence, pictures
from kdbench.benchmark.leaderboard.album import album
from kdbench.benchmark.leaderboard.headline import headlines
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Finding, Store
from kdbench.benchmark.whole import write
from tests.benchmark.leaderboard.boards import board_of

Study = Callable[..., list[Record]]
SOURCES = ["labels", "logits", "features", "gradients", "relations", "relations+logits", "mine"]
METHODS = [f"{source[:4]}-method" for source in SOURCES]

GAINS = pd.DataFrame(
    [
        {"source": source, "method": method, "unit": unit, "gain": place * 0.3 + unit % 3 - 1}
        for place, (source, method) in enumerate(zip(SOURCES, METHODS, strict=True))
        for unit in range(4)
    ]
)
SPEEDS = pd.DataFrame(
    [
        {"pair": pair, "source": source, "method": method, "top1": 70 + place * 0.3, "speed": 0.9 - 0.07 * place}
        for pair in ("a → b", "c → d")
        for place, (source, method) in enumerate(zip(SOURCES, METHODS, strict=True))
    ]
)
TIMES = pd.DataFrame(
    [
        {"pair": "a → b", "source": source, "method": method, "epoch": epoch, "mean": 60 + epoch + place, "std": 0.5}
        for place, (source, method) in enumerate(zip(SOURCES, METHODS, strict=True))
        for epoch in range(1, 9)
    ]
)
WIDTHS = pd.DataFrame(
    [
        {"study": "t → s", "family": "s", "width": width, "source": source, "method": method, "mean": place, "half": 1}
        for place, (source, method) in enumerate(zip(SOURCES, METHODS, strict=True))
        for width in (0.5, 1, 2)
    ]
)
QUALITIES = pd.DataFrame(
    [
        {"teacher": teacher, "layer": layer, "S": 0.1 * layer, "I": 1, "E": 1, "Q": 1, "chosen": layer > 2}
        for teacher in ("one", "two")
        for layer in range(6)
    ]
)
ALL: dict[str, tuple[Callable[..., Figure | None], pd.DataFrame]] = {
    "throughput": (pictures.accuracy_throughput, SPEEDS),
    "sources": (lambda rows: pictures.gains_by_source(rows, "pair"), GAINS),
    "gains": (lambda rows: pictures.gains(rows, "pair"), GAINS),
    "curves": (pictures.learning_curves, TIMES),
    "width": (pictures.width_study, WIDTHS),
    "quality": (pictures.knowledge_quality, QUALITIES),
    "tasks": (pictures.accuracy_by_task, TIMES.rename(columns={"epoch": "task"})),
}


@pytest.mark.parametrize("name", ALL)
def test_a_picture_can_be_printed_and_is_the_same_bytes_again(name: str) -> None:
    draw, rows = ALL[name]
    first, again = draw(rows), draw(rows.copy())
    assert first is not None and again is not None
    assert first.get_figwidth() in (drawing.COLUMN, drawing.PAGE)
    svg = drawing.saved(first, "svg")
    assert svg == drawing.saved(again, "svg")
    sizes = {float(size) for size in re.findall(rb"([\d.]+)px", svg)}
    assert sizes and min(sizes) >= 8  # a pixel of the file is a point in print
    assert b"<dc:date>" not in svg


def test_a_png_says_nothing_of_who_made_it_or_when() -> None:
    draw, rows = ALL["sources"]
    figure = draw(rows)
    assert figure is not None
    png = drawing.saved(figure, "png")
    assert png == drawing.saved(figure, "png")
    image: Any = Image.open(io.BytesIO(png))
    assert image.text == {} and image.width == 300 * drawing.COLUMN


@pytest.mark.parametrize("name", ALL)
def test_there_is_no_picture_of_nothing(name: str) -> None:
    draw, rows = ALL[name]
    assert draw(rows.iloc[:0]) is None


def test_sources_are_told_apart_without_their_colours() -> None:
    for looks in (drawing.COLOURS, drawing.MARKERS, drawing.DASHES):
        assert len(set(looks.values())) == len(looks) == len({drawing.kind(source) for source in SOURCES})


def test_what_a_method_is_called_is_drawn_as_it_is() -> None:
    figure = pictures.gains(GAINS.assign(method=r"$\frac$ <b>&"), "pair")
    assert figure is not None
    assert rb"$\frac$ &lt;b>&amp;" in drawing.saved(figure, "svg").replace(b"&gt;", b">")


def test_the_front_has_those_that_no_other_beats_in_both() -> None:
    points = pd.DataFrame(
        [("slow", 10, 90), ("same", 10, 90), ("worse", 10, 80), ("fast", 30, 70), ("beaten", 20, 70), ("mid", 20, 80)],
        columns=["method", "speed", "top1"],
    )
    assert list(pictures.front(points)["method"]) == ["same", "mid", "fast"]


def test_one_far_off_does_not_press_the_others_together() -> None:
    low, high = drawing.within(pd.Series([0.9, -0.6, -51.0]))
    assert -51 < low <= -0.6 and high == 0.9
    assert drawing.within(pd.Series([1.0, 2.0, 3.0])) == (1, 3)


def test_where_many_agree_whoever_lies_within_their_intervals_is_drawn() -> None:
    """A sweep whose best method leads by much less than the length of an interval."""
    rows = pd.DataFrame(
        [
            {"source": "logits", "method": f"kd({place})", "unit": unit, "gain": mean + unit - 1}
            for place, mean in enumerate((0.5, 0.55, 0.52, 2.1))
            for unit in range(3)
        ]
    )
    figure = pictures.gains(rows, "seed")
    assert figure is not None and not {"◂", "▸"} & {text.get_text() for text in figure.axes[0].texts}


def test_a_name_without_room_beside_its_point_hangs_on_a_stroke_and_covers_no_line() -> None:
    figure = drawing.blank(3, 3)
    panel = figure.subplots()
    panel.set(xlim=(0, 1), ylim=(0, 1))
    around = [(0.5 + across, 0.5 + up) for across in (-0.1, 0, 0.1) for up in (-0.1, 0.1)]
    line = panel.axhline(0.35)
    figure.draw_without_rendering()
    places = [(0.5, 0.5), (0.9, 0.5), *around]
    drawing.name_points(panel, [(*place, f"point {number}") for number, place in enumerate(places)], [line])
    boxes = {text.get_text(): text.get_window_extent() for text in panel.texts if text.get_text()}
    (x, y), centre = panel.transData.transform((0.5, 0.5)), boxes["point 0"]
    assert not centre.padded(6).contains(x, y)
    assert len([text for text in panel.texts if getattr(text, "arrow_patch", None)]) > 0
    for place in places:
        assert not any(box.contains(*panel.transData.transform(place)) for box in boxes.values())
    level = panel.transData.transform((0, 0.35))[1]
    assert not any(box.y0 <= level <= box.y1 for box in boxes.values())


STUDENTS = ("resnet8x0.25", "resnet8x0.5", "resnet8")


def test_gains_are_over_pairs_or_where_there_is_one_over_seeds(study: Study) -> None:
    one = board_of(study({"kd": [1, 2, 6]}))
    assert list(evidence.gains(one.cells, one.series)["gain"]) == [1, 2, 6]
    three = board_of(study({"kd": [1, 2, 6]}, STUDENTS))
    assert list(evidence.gains(three.cells, three.series)["gain"]) == [5, 3, 4]
    some = board_of(study({"kd": [1, 2, 6], "rkd": [5, 5, 5]}) + study({"kd": [1, 2, 6]}, STUDENTS[1:]))
    assert set(evidence.gains(some.cells, some.series)["method"]) == {"kd"}


def test_two_pairs_are_no_sample_and_each_is_shown_by_itself(study: Study) -> None:
    found = board_of(study({"kd": [1, 2, 6]}, STUDENTS[:2]))
    assert [names[3:] for names, *_ in evidence.fields(found)] == [["big → resnet8x0.25"], ["big → resnet8x0.5"]]
    assert [list(evidence.gains(cells, series)["gain"]) for _, cells, series in evidence.fields(found)] == [
        [1, 2, 6], [2, 3, 7],
    ]  # fmt: skip
    assert found.methods.empty
    ((said, _),) = headlines(found)
    assert said.startswith("On digits, big → resnet8x0.5, ")


def test_where_some_methods_ran_on_one_pair_alone_its_gains_are_shown_too(study: Study) -> None:
    full = study({"kd": [1, 2, 6], "rkd": [5, 5, 5]}, STUDENTS[1:2])
    for records in full, study({"kd": [1, 2, 6], "rkd": [1, 1, 1]}, STUDENTS):
        found = board_of(records)
        assert evidence.of_one_pair(found.cells, found.series) is None
    found = board_of(full + study({"kd": [1, 2, 6]}, STUDENTS[::2]))
    one = evidence.of_one_pair(found.cells, found.series)
    assert one is not None
    pair, gains, halves = one
    assert pair.endswith("→ resnet8x0.5") and set(gains["method"]) == {"kd", "rkd"}
    assert list(gains.loc[gains["method"] == "kd", "gain"]) == [1, 2, 6]
    row = found.series[(found.series["pair"] == pair) & (found.series["method"] == "kd")].iloc[0]
    assert halves["kd"] == row["over_ce_half"] > 0
    assert f"too few pairs for these means. On {pair}, rkd comes first, +5.00." in headlines(found)[0][1]


def test_the_one_pair_shown_too_is_of_those_methods_that_ran_on_too_few(study: Study) -> None:
    records = study({"kd": [1, 2, 6], "dkd": [3, 4, 5]}, STUDENTS) + study({"rkd": [7, 8, 9]}, ("resnet14",))
    found = board_of(records)
    one = evidence.of_one_pair(found.cells, found.series)
    assert one is not None and (one[0], set(one[1]["method"])) == ("big → resnet14", {"rkd"})


def rows_of(gains: dict[str, dict[int, float]]) -> pd.DataFrame:
    """Gains of methods of one source, by unit."""
    found = [(method, unit, gain) for method, own in gains.items() for unit, gain in own.items()]
    return pd.DataFrame(found, columns=["method", "unit", "gain"]).assign(source="logits")


@pytest.mark.parametrize(
    ("gains", "means"),
    [
        ({"kd": {0: 1, 1: 2}, "dkd": {0: 3, 1: 6}}, {0: 2, 1: 4}),
        ({"kd": {0: 1, 1: 2}, "dkd": {0: 3, 1: 6, 2: 90}}, {0: 2, 1: 4}),  # all methods, on fewer units
        ({"kd": {0: 1, 1: 2, 2: 3}, "dkd": {0: 3, 1: 6, 2: 9}, "dist": {3: 50}}, {0: 2, 1: 4, 2: 6}),  # no unit has all
        ({"kd": {0: 1, 1: 2}, "dkd": {0: 3, 1: 6}, "clkd": {2: 50, 3: 60}}, {0: 2, 1: 4}),  # two share as many as one
        ({"kd": {2: 5}, "dkd": {0: 3}}, {0: 3}),  # any one, but always the same
    ],
)
def test_a_source_is_the_mean_of_the_same_methods_on_every_unit(
    gains: dict[str, dict[int, float]], means: dict[int, float]
) -> None:
    for rows in rows_of(gains), rows_of(gains)[::-1]:
        found = evidence.by_source(rows)
        assert dict(zip(found["unit"], found["gain"], strict=True)) == means


def test_of_nothing_no_source_has_a_mean() -> None:
    assert evidence.by_source(rows_of({})).empty


def test_a_mean_gain_has_the_interval_that_was_worked_out_by_hand() -> None:
    """1, 2 and 6 have the mean 3 and the deviation √7; t is 4.303 with two degrees of freedom."""
    rows = evidence.intervals(pd.DataFrame({"of": "x", "gain": [1.0, 2, 6]}), ["of"])
    assert (rows["mean"][0], rows["count"][0]) == (3, 3)
    assert rows["half"][0] == pytest.approx(4.303 * math.sqrt(7) / math.sqrt(3), rel=1e-3)


def test_curves_are_those_of_ce_and_of_each_sources_best(study: Study) -> None:
    records = study({"kd": [1, 1], "dkd": [3, 1], "rkd": [-1, 0]})
    found = board_of(records)
    rows = evidence.curves(found.cells, found.series, {record.id: record for record in records})
    assert set(rows["method"]) == {"ce", "dkd", "rkd"}
    dkd = rows[rows["method"] == "dkd"]
    assert list(dkd["epoch"]) == [1, 2] and list(dkd["mean"]) == [52.5, 52.5]
    assert dkd["std"].iloc[0] == pytest.approx(math.sqrt(0.5))


def test_a_width_study_needs_three_widths_of_one_family(study: Study) -> None:
    students = ("resnet8x0.25", "resnet8", "resnet8x2", "resnet14x2")
    rows = evidence.widths(board_of(study({"kd": [1, 2]}, students)).series)
    assert list(rows["width"]) == [0.25, 1, 2] and set(rows["study"]) == {"big → resnet8, by width"}
    assert list(rows["mean"]) == [1.5, 2.5, 3.5]
    assert evidence.widths(board_of(study({"kd": [1, 2]}, students[1:])).series).empty


def test_quality_is_that_of_the_teachers_weights_as_they_are_now(
    tmp_path: Path, study: Study, make_cell: Any, make_record: Any
) -> None:
    store, teacher = Store(tmp_path), make_record(make_cell(student="big"))
    store.finish(teacher)
    layers = [[0.1 * layer, math.log(5), 1.0] for layer in range(6)]
    for weights, drawn in ((teacher.result.weights, 6), ("of an earlier training", 0)):
        file = tmp_path / "teachers" / f"{teacher.id}.quality-5000-500.json"
        write(file, msgspec.json.encode(Finding(weights, layers)))
        rows = evidence.qualities([teacher.id], store)
        assert len(rows) == drawn
        if drawn:
            assert rows["Q"].tolist() == pytest.approx([1 + 0.1 * layer for layer in range(6)])
            assert rows["layer"][rows["chosen"]].tolist() == [2, 3, 4, 5]
    write(file, b"{")
    assert evidence.qualities([teacher.id], store).empty
    assert "is no finding of knowledge quality" in store.troubles[-1]


def test_an_album_has_what_there_is_to_show_and_says_how_much(tmp_path: Path, study: Study) -> None:
    records = study({"kd": [1, 2], "rkd": [0, 3]})
    known, drawn = {record.id: record for record in records}, []
    for order in (records, records[::-1]):
        found = list(album(board_of(order), known, Store(tmp_path)))
        drawn.append([(picture.svg, picture.png) for picture in found])
        assert [picture.name.partition("-")[0] for picture in found] == ["sources", "gains", "throughput", "curves"]
        assert all("digits · tiny. " in picture.caption for picture in found)
        assert "2 seeds" in found[0].caption and "One pair says nothing about other pairs." in found[0].caption
        assert "left out" not in found[0].caption
    assert drawn[0] == drawn[1]


def test_the_picture_of_sources_says_what_was_left_out_of_it(tmp_path: Path, study: Study) -> None:
    records = study({"kd": [1, 2, 3], "dkd": [0, 3, 9]})[:-1]  # dkd did not run on the last seed
    sources, gains = list(album(board_of(records), {}, Store(tmp_path)))[:2]
    assert "on 2 seeds." in sources.caption and "2 to 3 seeds" in gains.caption
    assert "some runs are left out" in sources.caption and "left out" not in gains.caption


def test_a_caption_explains_the_mark_of_what_is_far_away_only_where_one_is_drawn(tmp_path: Path, study: Study) -> None:
    near = list(album(board_of(study({"kd": [0, 1], "rkd": [1, 2]})), {}, Store(tmp_path)))
    assert not any("too far away" in picture.caption for picture in near)
    afar = study({"kd": [1, 2], "rkd": [0, 3], "dkd": [2, 2.5], "fitnet": [-51, -50]})
    captions = {
        picture.name.partition("-")[0]: picture.caption for picture in album(board_of(afar), {}, Store(tmp_path))
    }
    assert captions["gains"].endswith("◂: too far away to draw to scale.")
    assert captions["throughput"].endswith("↓: too far away to draw to scale.")
