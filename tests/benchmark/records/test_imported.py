"""Checkpoints of others become teachers: the files that the field passes around, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kdbench.benchmark import networks
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.plans.plan import State, plan
from kdbench.benchmark.records.imported import fill, state_in, take
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import digest
from kdbench.benchmark.runs.rerun import run_again
from kdbench.refusal import Refusal

GRID = "datasets: digits\npairs: {name} -> resnet8x0.25\nmethods: kd\nrecipe: quick\n"


def state(name: str = "resnet8", classes: int = 10) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return networks.build(name, classes, (1, 8, 8)).state_dict()


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a plain state": lambda state: state,
    "under 'model', with an accuracy": lambda s: {"epoch": 240, "model": s, "best_acc": np.float64(93.1)},
    "under 'state_dict', from parallel training": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "under 'model', with a tensor beside it": lambda s: {"model": s, "best_acc": torch.tensor(93.1)},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_fields_files_load(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    torch.save(wrap(state()), tmp_path / "teacher.pth")
    assert_same(state_in(tmp_path / "teacher.pth"))


def test_safetensors_load(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "teacher.safetensors")
    assert_same(state_in(tmp_path / "teacher.safetensors"))


def assert_same(found: dict[str, Tensor]) -> None:
    want = state()
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "proof"),)

    torch.save({"model": Malice()}, tmp_path / "teacher.pth")
    with pytest.raises(Refusal, match="must hold only weights"):
        state_in(tmp_path / "teacher.pth")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04."], ids=["empty", "text", "half a pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_without_weights_is_refused_in_a_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"teacher{suffix}"
    file.write_bytes(content)
    with pytest.raises(Refusal, match="must hold"):
        state_in(file)


def test_weights_without_names_are_refused(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(2)}, tmp_path / "teacher.pth")
    with pytest.raises(Refusal, match="must hold named weights"):
        state_in(tmp_path / "teacher.pth")


def test_another_networks_weights_are_refused_with_the_first_difference() -> None:
    chain = networks.build("resnet8", 10, (1, 8, 8))
    with pytest.raises(Refusal, match=r"resnet8: 'fc.weight' must be 10x64, got 100x64"):
        fill(chain, state(classes=100), "resnet8")
    with pytest.raises(Refusal, match=r"resnet8 has no weights 'layer1.1.conv1.weight'"):
        fill(chain, state("resnet14"), "resnet8")
    lacking = {key: value for key, value in state().items() if key != "bn1.weight"}
    with pytest.raises(Refusal, match=r"must have the weights 'bn1.weight' 16"):
        fill(chain, lacking, "resnet8")


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        (lambda value: value > 0, "bool"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to_sparse(), "float32 sparse_coo"),
        (lambda value: value.to("meta"), "float32 meta"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "qint8"),
    ],
)
def test_weights_that_are_no_plain_numbers_are_refused(changed: Callable[[Tensor], Tensor], got: str) -> None:
    chain, weights = networks.build("resnet8", 10, (1, 8, 8)), state()
    weights["fc.weight"] = changed(weights["fc.weight"])
    with pytest.raises(Refusal, match=f"resnet8: 'fc.weight' must be plain float32 numbers, got {got}$"):
        fill(chain, weights, "resnet8")


def test_an_imported_teacher_is_named_by_its_content_and_planned_as_finished(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "teacher.pth")
    store = Store(tmp_path / "results")
    name, record = take(tmp_path / "teacher.pth", "resnet8", "digits", store, tmp_path)
    assert name == f"resnet8@{record.result.weights[:12]}"
    assert record.origin == "teacher.pth"

    chain = networks.build("resnet8", 10, (1, 8, 8))
    chain.load_state_dict(state())
    assert digest(chain) == record.result.weights
    assert 0 <= record.result.top1 <= 100

    (tmp_path / "grid.yaml").write_text(GRID.format(name=name))
    planned = plan(load(str(tmp_path / "grid.yaml")), store)
    assert [entry.state for entry in planned.teachers] == [State.FINISHED]
    assert planned.teachers[0].cell.id == record.id


def test_a_teacher_that_is_not_there_yet_is_invalid_with_the_verb_that_brings_it(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID.format(name="resnet8@0123456789ab"))
    planned = plan(load(str(tmp_path / "grid.yaml")), Store(tmp_path / "results"))
    assert [entry.state for entry in planned.teachers] == [State.INVALID]
    assert [entry.state for entry in planned.students] == [State.INVALID]
    assert all("kdbench teacher import" in entry.reason for entry in planned.entries)


def test_an_imported_teacher_cannot_be_trained_anew(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "teacher.pth")
    store = Store(tmp_path / "results")
    _, record = take(tmp_path / "teacher.pth", "resnet8", "digits", store, tmp_path)
    with pytest.raises(Refusal, match="must have a recipe to be trained"):
        run_again(store.records_folder / f"{record.id}.json", store.folder, tmp_path)


def test_weights_that_give_no_numbers_are_refused(tmp_path: Path) -> None:
    torch.save({key: value * float("nan") for key, value in state().items()}, tmp_path / "teacher.pth")
    store = Store(tmp_path / "results")
    with pytest.raises(Refusal, match="must hold weights that give resnet8 a finite loss on digits, got nan"):
        take(tmp_path / "teacher.pth", "resnet8", "digits", store, tmp_path)
    assert not store.folder.exists()


def test_a_network_that_cannot_take_the_images_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "teacher.pth")
    with pytest.raises(Refusal, match="fo_vgg11 cannot take images of 1x8x8: "):
        take(tmp_path / "teacher.pth", "fo_vgg11", "digits", Store(tmp_path / "results"), tmp_path)


def test_a_digest_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID.format(name="resnet8@best"))
    with pytest.raises(Refusal, match="NETWORK@DIGEST"):
        load(str(tmp_path / "grid.yaml"))
