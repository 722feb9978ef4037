"""Images in files: the same order, the same views and the same bits, whatever decodes them and wherever a run began."""

import gc
import itertools
import multiprocessing
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdbench import methods
from kdbench.benchmark import networks
from kdbench.benchmark.catalogue import described
from kdbench.benchmark.data import DATASETS, Dataset, files, load, source
from kdbench.benchmark.data.files import Files, collated
from kdbench.benchmark.data.files import views as views_of
from kdbench.benchmark.data.views import Normalise, draws
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import evaluate
from kdbench.benchmark.training.loop import Epoch, training
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal
from tests.conftest import train

CPU = Engine(torch.device("cpu"))
COLOURS = {"ant": (200, 30, 30), "bee": (30, 200, 30), "cow": (30, 30, 200)}
RECIPE = Recipe(epochs=2, batch=4, lr=0.05, schedule="constant")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """18 JPEGs to train on and 6 to test with, in three classes of one colour each, and of all sizes; no workers."""
    monkeypatch.setattr(files, "WORKERS", 0)
    draw = np.random.default_rng(0)
    for part, each in (("train", 6), ("val", 2)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(each):
                high, wide = draw.integers(20, 60, 2)
                noise = draw.integers(0, 50, (high, wide, 3)) + np.array(colour)
                Image.fromarray(noise.astype(np.uint8)).save(tmp_path / part / name / f"{number}.jpg")
    return tmp_path


@pytest.fixture
def name(folder: Path) -> str:
    return f"imagefolder:{folder}@16"


@pytest.fixture
def data(name: str) -> Dataset:
    return load(name, Path())


def shown(data: Dataset, *seed: int | str, augment: bool = True, start: int = 0) -> list[tuple[list[int], Tensor]]:
    views = views_of(data, augment)
    steps = draws(data.train, views.count, 4, *seed, start=start)
    return [(draw.index.tolist(), images.clone()) for draw, images in views.shown(steps)]


def same(one: list[tuple[list[int], Tensor]], other: list[tuple[list[int], Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


def test_a_folder_of_class_folders_is_a_data_set_by_its_path(name: str, data: Dataset, folder: Path) -> None:
    assert (source(name).classes, source(name).image) == (3, (3, 16, 16))
    assert source(f"imagefolder:{folder}").image == (3, 224, 224)
    assert (source(name).train, source(name).test) == (len(data.train), len(data.test)) == (18, 6)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_a_folder_is_described_like_any_data_set(name: str) -> None:
    row = described(name, Path())
    assert row == {"data set": name, "classes": 3, "image": "3x16x16", "train": 18, "test": 6, "from": "kdbench"}


def test_images_come_as_bytes_with_their_labels(data: Dataset) -> None:
    (index, images), *_ = shown(data, 0)
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 16, 16))
    brightest = images.float().mean((2, 3)).argmax(1)
    assert brightest.tolist() == data.train.labels[index].tolist()
    tested = list(data.test.batches(4))
    assert [len(labels) for _, labels in tested] == [4, 2]
    for images, labels in tested:
        assert images.float().mean((2, 3)).argmax(1).tolist() == labels.tolist()


def test_an_epoch_is_a_function_of_its_seed_alone(data: Dataset) -> None:
    torch.manual_seed(1)
    first = shown(data, 0, "main", 1)
    torch.manual_seed(2)
    assert same(first, shown(data, 0, "main", 1))
    assert sorted(row for index, _ in first for row in index) == list(range(18))
    assert not same(first, shown(data, 0, "main", 2))


def test_a_second_epoch_of_the_same_views_is_another(data: Dataset) -> None:
    views = views_of(data, augment=True)
    epochs = [
        [images for _, images in views.shown(draws(data.train, views.count, 4, 0, "main", epoch))] for epoch in (1, 2)
    ]
    for epoch, images in zip((1, 2), epochs, strict=True):
        want = [image for _, image in shown(data, 0, "main", epoch)]
        assert all(torch.equal(a, b) for a, b in zip(images, want, strict=True))


def test_an_epoch_can_be_entered_at_any_step(data: Dataset) -> None:
    assert same(shown(data, 0, "main", 1)[3:], shown(data, 0, "main", 1, start=3))


def test_decoding_leaves_the_global_random_state_alone(data: Dataset) -> None:
    before = torch.get_rng_state()
    shown(data, 0)
    list(data.test.batches(4))
    assert torch.equal(before, torch.get_rng_state())


def test_workers_decode_the_same_bits(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = shown(data, 0, "main", 1)
    monkeypatch.setattr(files, "WORKERS", 2)
    assert same(alone, shown(data, 0, "main", 1))
    # A process that was spawned, as a launcher's worker is, spawns others: not these, which share its memory.
    monkeypatch.setattr(
        multiprocessing.context._default_context, "_actual_context", multiprocessing.get_context("spawn")
    )
    assert same(alone, shown(data, 0, "main", 1))


def test_without_augmentation_an_image_is_shown_as_it_is_tested(data: Dataset) -> None:
    whole = torch.cat([images for images, _ in data.train.batches(5)])
    for index, images in shown(data, 0, augment=False):
        assert torch.equal(images, whole[index])
    assert not all(torch.equal(images, whole[index]) for index, images in shown(data, 0))


def test_an_image_that_was_replaced_is_noticed_by_its_size(data: Dataset) -> None:
    """A teacher's answers are remembered by this digest."""
    assert isinstance(data.train, Files)
    before = data.train.digest()
    assert data.train.digest() == before
    with Path(os.fsdecode(data.train.paths[0])).open("ab") as file:
        file.write(b" ")
    assert data.train.digest() != before


def test_a_copy_elsewhere_has_the_same_digest(
    data: Dataset, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As the copy that a cluster's job reads from its node's disk."""
    copy = tmp_path_factory.mktemp("node") / "copy"
    shutil.copytree(folder, copy)
    assert load(f"imagefolder:{copy}@16", Path()).digest() == data.digest()


def test_a_tenth_can_be_held_out(name: str) -> None:
    tuning = load(f"{name}:held-out", Path())
    assert isinstance(tuning.train, Files) and isinstance(tuning.test, Files)
    assert tuning.test.labels.tolist() == [0, 1, 2]
    assert {*tuning.train.paths} | {*tuning.test.paths} == {*load(name, Path()).train.paths}
    assert len({*tuning.train.paths} & {*tuning.test.paths}) == 0


def test_imagenet_lies_in_a_folder_of_that_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = replace(source("imagenet"), classes=3, train=18, test=6)
    monkeypatch.setitem(DATASETS._things, "imagenet", known)  # type: ignore
    (folder / "imagenet").mkdir()
    for part in ("train", "val"):
        (folder / part).rename(folder / "imagenet" / part)
    assert load("imagenet", folder).train.shape == (torch.uint8, (18, 3, 224, 224))


# -- the loop ---------------------------------------------------------------------------------------------------------


def student() -> Chain:
    torch.manual_seed(0)
    return networks.build("resnet8x0.25", 3, (3, 16, 16))


def run(data: Dataset, method: str = "ce", **how: Any) -> tuple[list[Epoch], Chain]:
    mine, teacher = student(), student() if method == "kd" else None
    facts = RECIPE.facts(3, data.train.labels)
    made = methods.create(method, mine, teacher or mine, facts)
    return train(mine, teacher, made, data, RECIPE, 0, engine=CPU, **how), mine


def same_weights(one: Chain, other: Chain) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in mine.items())


class Killed(Exception):
    pass


@pytest.mark.parametrize("steps", [2, 7])
def test_a_killed_run_goes_on_to_the_same_bits(data: Dataset, tmp_path: Path, steps: int) -> None:
    whole, weights = run(data)
    seen = []

    def kill(live: object) -> None:
        seen.append(live)
        if len(seen) > steps:
            raise Killed

    with pytest.raises(Killed):
        run(data, checkpoints=Checkpoints(tmp_path / "run", every=0), watch=kill)
    again, resumed = run(data, checkpoints=Checkpoints(tmp_path / "run", every=0))
    assert same_weights(weights, resumed)
    assert [epoch.terms for epoch in again] == [epoch.terms for epoch in whole]


def test_every_method_sees_the_same_images(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {"ce": [], "kd": []}
    for method, images in seen.items():
        with monkeypatch.context() as patch:
            call = Normalise.__call__
            patch.setattr(Normalise, "__call__", lambda self, x, i=images, c=call: i.append(x.clone()) or c(self, x))
            run(data, method)
    assert len(seen["ce"]) == len(seen["kd"]) == 2 * 5 + 2  # five steps and one batch of the test set, twice
    assert all(torch.equal(a, b) for a, b in zip(seen["ce"], seen["kd"], strict=True))


def test_workers_that_are_forked_in_turns_leave_those_of_others_alone(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def collecting(images: list[Any]) -> Any:  # in a worker, which has inherited all that waits here
        gc.collect()
        return collated(images)

    monkeypatch.setattr(files, "WORKERS", 1)
    monkeypatch.setattr(files, "collated", collecting)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # pytest keeps what a worker would print
    gc.disable()
    gc.freeze()  # what was there before is not looked through: it takes half a second
    try:
        turns = []
        for method in ("ce", "kd"):
            mine, teacher = student(), student()
            made = methods.create(method, mine, teacher, RECIPE.facts(3, data.train.labels))
            turns.append(training(mine, teacher, made, data, RECIPE, 0, engine=CPU))
        for _ in itertools.zip_longest(*turns):
            pass
        del turns
        assert multiprocessing.active_children() == []
    finally:
        gc.unfreeze()
        gc.enable()
    assert capfd.readouterr() == ("", "")


def test_the_last_epochs_score_is_that_of_the_test_images(data: Dataset) -> None:
    history, trained = run(data)
    assert history[-1].score == evaluate(trained, data.test, Normalise(data, CPU.device))


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_damaged_image_is_one_sentence_from_a_worker_too(
    data: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "train" / "bee" / "3.jpg"
    file.write_bytes(file.read_bytes()[:300])
    for workers in (0, 1):
        monkeypatch.setattr(files, "WORKERS", workers)
        with pytest.raises(Refusal, match=r"bee/3\.jpg must be an image: ") as refused:
            shown(data, 0)
        assert "\n" not in str(refused.value)


def test_folders_that_are_missing_or_differ_are_refused(folder: Path) -> None:
    (folder / "val" / "cow").rename(folder / "val" / "dog")
    with pytest.raises(Refusal, match=r"train/ and val/ must hold the same classes, got 'cow' in train/ only"):
        source(f"imagefolder:{folder}@20")
    (folder / "train" / "cow").rename(folder / "train" / "elk")
    with pytest.raises(Refusal, match=r"train/ and val/ must hold the same classes, got 'dog' in val/ only"):
        source(f"imagefolder:{folder}@20")
    (folder / "val").rename(folder / "valid")
    with pytest.raises(Refusal, match=r"val must be a folder with one folder of images per class: ") as refused:
        source(f"imagefolder:{folder}@20")
    assert "\n" not in str(refused.value)


def test_where_a_system_does_not_say_which_cores_are_ours_all_of_them_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert files.cores() == 6
