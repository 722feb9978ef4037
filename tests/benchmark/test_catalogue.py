"""What there is, in rows and in words."""

from pathlib import Path

import pytest

from kdbench.benchmark.catalogue import described, listed, paragraphs
from kdbench.methods.method import METHODS
from kdbench.refusal import Refusal

NOWHERE = Path("nowhere")


def test_methods_are_listed_by_source_labels_first() -> None:
    rows = listed("methods")
    assert rows[0]["name"] == "ce"
    sources = [row["source"] for row in rows[1:]]
    assert sources == sorted(sources)


def test_every_method_says_in_a_line_what_it_is() -> None:
    assert [row["name"] for row in listed("methods") if not row["about"].strip()] == []


def test_a_network_is_listed_with_what_it_costs_and_where_it_can_be_tapped() -> None:
    row = next(row for row in listed("networks") if row["name"] == "resnet20")
    assert row == {
        "name": "resnet20", "parameters": 278_324, "MACs": 40_818_944, "embedding": 64,
        "stages": "16@32x32 16@32x32 32@16x16 64@8x8",
    }  # fmt: skip


def test_a_method_is_described_with_its_parameters_and_where_it_comes_from() -> None:
    row = described("kd", NOWHERE)
    assert row["parameters"]["temperature"] == "float = 4.0"
    assert (row["source"], row["from"]) == ("logits", "kdbench")
    assert METHODS["kd"].__doc__ and row["about"].startswith(METHODS["kd"].__doc__.splitlines()[0])


def test_a_data_set_is_described_by_its_size() -> None:
    row = described("digits", NOWHERE)
    assert (row["classes"], row["image"], row["train"], row["test"]) == (10, "1x8x8", 300, 1497)


def test_a_data_set_of_which_a_tenth_is_held_out_is_described_too() -> None:
    row = described("digits:held-out", NOWHERE)
    assert (row["train"], row["held out"]) == (300, "a tenth of each class of train, used as the test set")


def test_a_network_is_described_depth_by_depth() -> None:
    depths = described("resnet8", NOWHERE)["depths"]
    assert (min(depths), [*depths.values()][-1]) == ("1", "Linear → 100")


def test_what_nothing_is_called_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(Refusal, match="unknown name 'quickstar'; did you mean 'quickstart'"):
        described("quickstar", NOWHERE)


def test_paragraphs_are_indented_by_what_they_belong_to() -> None:
    text = paragraphs({"a": 1, "b": {"c": "x", "d": {}}, "e": "two\n\nlines"})
    assert text == "a: 1\nb:\n  c: x\n  d: {}\ne:\n  two\n\n  lines"
