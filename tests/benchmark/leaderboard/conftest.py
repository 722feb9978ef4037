"""Records of whole series and studies."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.leaderboard import publish
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record

MakeCell, MakeRecord = Callable[..., Cell], Callable[..., Record]
Study = Callable[..., list[Record]]


@pytest.fixture
def pictures() -> None:
    """Request this to publish pictures too."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish without pictures unless requested, because an album takes seconds."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(publish, "album", lambda *_: [])


@pytest.fixture
def study(make_cell: MakeCell, make_record: MakeRecord) -> Study:
    """Records of ce and of methods, by their gain over ce on each seed.

    Example: ``study({"kd": [1, 2], "rkd": [0, 3]}, students=["resnet8x0.25"])``.
    """

    def make(gains: dict[str, list[float]], students: tuple[str, ...] = ("resnet8x0.25",), **asked: Any) -> Any:
        records, seeds = [], max(map(len, gains.values()))
        for place, student in enumerate(students):
            for seed in range(seeds):
                ce = 50 + 5 * place + seed
                records.append(make_record(make_cell(student=student, seed=seed, **asked), top1=ce, speed=2000))
                for method, own in gains.items():
                    cell = make_cell(method, "big", student=student, seed=seed, **asked)
                    records.append(make_record(cell, top1=ce + own[seed] + place, speed=1000 - 10 * len(method)))
        return records

    return make


@pytest.fixture
def hostile(study: Study) -> list[Record]:
    """Records of a stranger with malicious names."""
    name = "</script><img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>$x$\u2028<!--"
    records = []
    for record in study({"kd": [1.0, 2.0]}):
        cell = msgspec.structs.replace(record.cell, dataset=name, protocol=name)
        if cell.method == "kd":
            cell = msgspec.structs.replace(cell, method=name)
        records.append(msgspec.structs.replace(record, id=cell.id, cell=cell, origin=name))
    return records
