"""Numbers and tables, as people read them."""

import pandas as pd
import pytest

from kdbench.benchmark.words import columns, counted, duration, markdown_table


def test_one_is_not_counted_like_many() -> None:
    assert [counted(count, "cell") for count in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599.4, "59 min 59 s"), (3600 * 30 + 60, "30 h 01 min")]
)
def test_a_duration_has_two_units_at_most(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    text = columns([{"name": "a", "size": 1234567}, {"name": "longer", "size": True}])
    assert text == "name    size\na       1,234,567\nlonger  True"
    assert columns([]) == "none"


def test_a_bar_in_a_name_ends_no_column() -> None:
    _, _, row = markdown_table(pd.DataFrame({"method": ["kd(file=a|b)"], "top-1": ["50"]})).splitlines()
    assert row == r"| kd(file=a\|b) | 50      |"
