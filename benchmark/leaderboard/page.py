"""The HTML page: one file that opens from disk, with the tables, the pictures and as many records as fit.

The page loads nothing. Content from records is JSON that cannot end its script element, or escaped text. The page's
content security policy runs only its own script.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import msgspec
from msgspec.structs import replace

from kdbench.benchmark.leaderboard import drawing
from kdbench.benchmark.leaderboard.album import Picture
from kdbench.benchmark.leaderboard.formats import ABOUT
from kdbench.benchmark.leaderboard.headline import headlines
from kdbench.benchmark.leaderboard.sheets import sheets
from kdbench.benchmark.leaderboard.table import Board
from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Curves, Record

PARTS = Path(__file__).with_name("html")
MOST_RECORDS = 10_000
MOST_BYTES = 20_000_000  # of records: a browser opens as much in a second or two


def page(board: Board, pictures: Iterable[Picture], records: Mapping[str, Record], title: str) -> str:
    """The page's HTML. The same board, pictures and records give the same bytes."""
    carried, about = embedded(records, set(board.cells["id"]))
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    said = [f"<p>{escape(found)}</p>\n<p class=small>{escape(note)}</p>" for found, note in headlines(board)]
    return Template(_part("template.html")).substitute(
        title=escape(title),
        facts=escape(_facts(board)),
        headline="\n".join(said),
        pictures="\n".join(map(_figure, pictures)),
        reading="\n".join(f"<p>{escape(text)}</p>" for text in (ABOUT, about)),
        style=_part("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        tables=as_data(sheets(board)),
        records=carried,
    )


def as_data(value: Any) -> str:
    """JSON that is safe inside a script element, whatever its strings contain."""
    encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub(r"[<>&\u2028\u2029]", lambda sign: f"\\u{ord(sign[0]):04x}", encoded)


def embedded(records: Mapping[str, Record], wanted: set[str]) -> tuple[str, str]:
    """As much of the records' files as fits into a page, and a sentence about it."""
    whole = [records[id] for id in sorted(wanted & set(records))]
    limit, elsewhere = f"{MOST_BYTES // 1_000_000} MB", "'kdbench show ID' shows a record."
    if not whole:
        return "{}", f"Records and their curves are not in this page, which has room for {MOST_RECORDS:,}. {elsewhere}"
    if texts := _texts(whole):
        return texts, "All records are in this page: a method's name opens its seeds, and a seed opens its record."
    if texts := _texts([_without_epochs(record) for record in whole]):
        return texts, (
            "All records are in this page: a method's name opens its seeds, and a seed opens its record. Values of "
            f"every epoch are left out, because records would take more than {limit} with them. {elsewhere}"
        )
    return "{}", f"Records are not in this page, because they would take more than {limit}. {elsewhere}"


def _texts(records: Sequence[Record]) -> str:
    """The records as JSON, or an empty string if they do not fit; their size on one line rules out most early."""
    if sum(len(msgspec.json.encode(record).decode()) for record in records) > MOST_BYTES:
        return ""
    texts = as_data({record.id: pretty(record).decode() for record in records})
    return texts if len(texts) <= MOST_BYTES else ""


def _without_epochs(record: Record) -> Record:
    result = replace(record.result, curves=Curves(lr=[], terms={}, top1=[], test_loss=[]))
    return replace(record, result=result, cost=replace(record.cost, epoch_seconds=[]))


def _facts(board: Board) -> str:
    cells, series = board.cells, board.series
    counts = {
        "record": cells["id"].nunique(),
        "data set": series["dataset"].nunique(),
        "pair": series.loc[series["teachers"] > 0, "pair"].nunique(),
        "task sequence": series.loc[series["setting"] == "incremental", "pair"].nunique(),
        "method": series["method"].nunique(),
        "processor": cells["processor"].nunique(),
    }
    return " · ".join(f"{count:,} {what}{'s' if count != 1 else ''}" for what, count in counts.items() if count)


def _figure(picture: Picture) -> str:
    """The picture as HTML, with the page's colours, which have a light and a dark form."""
    svg = picture.svg[picture.svg.index("<svg") :]
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{picture.name}-", svg)  # ids must be unique in the page
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{escape(picture.title)}">', svg
    )
    for name, colour in {**drawing.COLOURS, **drawing.PLAIN}.items():
        svg = svg.replace(colour, f"var(--{name})")
    return (
        f'<figure style="--inches: {picture.inches}"><div class="plate" tabindex="0">{svg}</div>'
        f"<figcaption><strong>{escape(picture.title)}.</strong> {escape(picture.caption)}</figcaption></figure>"
    )


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
