"""The verb ``quality``: which teacher is meant, what is said of it, and that it is what a run would choose."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from kdbench.benchmark import networks
from kdbench.benchmark.data import load
from kdbench.benchmark.records import imported
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import digest, weights_of
from kdbench.benchmark.runs import quality
from kdbench.benchmark.training.evaluate import shown
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods import resolve
from tests.conftest import CPU

Command, MakeCell, MakeRecord = Callable[..., Any], Callable[..., Cell], Callable[..., Record]
KEYS = {"layer", "depth", "at", "S", "I", "E", "Q", "chosen"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(Path("results"))


Trained = Callable[..., Record]


@pytest.fixture
def trained(store: Store, make_cell: MakeCell, make_record: MakeRecord) -> Trained:
    """A teacher in the store, with weights of its own."""

    def train(network: str = "resnet8x0.25", **asked: Any) -> Record:
        torch.manual_seed(len(store.records()))
        chain = networks.build(network, 10, (1, 8, 8))
        record = make_record(make_cell(student=network, **asked), top1=71.5)
        result = msgspec.structs.replace(record.result, weights=digest(chain))
        record = msgspec.structs.replace(record, result=result)
        store.finish(record, weights_of(chain))
        return record

    return train


def test_every_layer_is_told_for_people_and_for_scripts(kdbench: Command, trained: Trained) -> None:
    record = trained()
    answer = kdbench("quality", "resnet8x0.25", "--dataset", "digits", "--json")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert (found["teacher"], found["k0"], len(found["layers"])) == (record.id, 5, 5)
    assert all(row.keys() == KEYS and row["Q"] == row["S"] + (row["I"] * row["E"]) ** 0.5 for row in found["layers"])
    ranked = sorted(found["layers"], key=lambda row: row["Q"], reverse=True)
    assert found["chosen"] == sorted(row["layer"] for row in ranked[:4])
    lines = kdbench("quality", "resnet8x0.25", "--dataset", "digits").out.splitlines()
    assert lines[0] == f"{record.id}: top-1 71.50"
    assert [("★" in line) for line in lines[2:7]] == [row["chosen"] for row in found["layers"]]
    assert lines[-1] == f"In a grid: 'feature_only: {{teacher_depths: {found['chosen']}}}'."


def test_it_names_the_layers_that_a_run_chooses_and_both_measure_once(
    kdbench: Command, store: Store, trained: Trained
) -> None:
    record = trained("resnet14x0.5")
    chosen = json.loads(kdbench("quality", "resnet14x0.5", "--dataset", "digits", "--json").out)["chosen"]
    chain, _ = quality.trained(record.cell, store)
    digits = load("digits", Path())
    facts = replace(Recipe(epochs=1).facts(10, digits.train.labels), images=partial(shown, digits, CPU))
    assert resolve("feature_only", chain, chain, facts)["teacher_depths"] == tuple(chosen)

    (kept,) = Path("results/teachers").glob("*.json")
    finding = json.loads(kept.read_bytes())
    finding["found"] = [[0.1 * (number in (0, 2, 4, 6)), 0, 0] for number in range(8)]
    kept.write_text(json.dumps(finding))
    again = json.loads(kdbench("quality", "resnet14x0.5", "--dataset", "digits", "--json").out)
    assert again["chosen"] == [0, 2, 4, 6]


def test_a_teacher_is_found_by_its_network_its_id_a_beginning_or_its_digest(store: Store, trained: Trained) -> None:
    one, two = trained(), trained("resnet14x0.5")
    save_file(networks.build("resnet8", 10, (1, 8, 8)).state_dict(), "theirs.safetensors")
    name, third = imported.take(Path("theirs.safetensors"), "resnet8", "digits", store, Path())
    wanted = {one.cell.student: one, one.id: one, two.id[:-5]: two, name: third, "resnet8": third}
    assert {called: quality.find(called, "digits", store).id for called in wanted} == {
        called: record.id for called, record in wanted.items()
    }


def test_no_curves_are_read_to_find_a_teacher(store: Store, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trained()
    monkeypatch.setattr(Store, "records", None)
    assert quality.find(one.id, "digits", store).id == one.id


def test_several_teachers_of_one_name_are_listed_and_an_unknown_one_is_compared(
    kdbench: Command, trained: Trained
) -> None:
    ids = sorted(trained(seed=seed).id for seed in (0, 1))
    sentence = kdbench("quality", "resnet8x0.25", "--dataset", "digits").sentence
    assert sentence == f"'resnet8x0.25' must name one teacher of digits, got 2: {', '.join(ids)}"
    sentence = kdbench("quality", "resnet8x0.2", "--dataset", "digits").sentence
    assert sentence.endswith("a trained teacher 'resnet8x0.2' of digits; did you mean 'resnet8x0.25'?")


def test_a_record_without_weights_is_no_teacher(
    kdbench: Command, store: Store, make_cell: MakeCell, make_record: MakeRecord
) -> None:
    store.finish(make_record(make_cell()))
    assert "must hold a trained teacher" in kdbench("quality", "resnet8x0.25", "--dataset", "digits").sentence


@pytest.mark.parametrize(("file", "start"), [("q.png", b"\x89PNG"), ("q.svg", b"<?xml"), ("q.pdf", b"%PDF")])
def test_it_is_drawn(kdbench: Command, trained: Trained, file: str, start: bytes) -> None:
    trained()
    assert kdbench("quality", "resnet8x0.25", "--dataset", "digits", "--figure", file).code == 0
    drawn = Path(file).read_bytes()
    assert drawn.startswith(start)
    kdbench("quality", "resnet8x0.25", "--dataset", "digits", "--figure", file)
    assert Path(file).read_bytes() == drawn  # as all our pictures are
