"""Data sets: the embedded one, and a part held out of any."""

from pathlib import Path

import pytest
import torch

from kdbench.benchmark.data import Dataset, Split, load, source
from kdbench.refusal import Refusal


def same(a: Split, b: Split) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


# -- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_300_to_train_on_and_the_other_1497_to_test_with(tmp_path: Path) -> None:
    data = load("digits", tmp_path)
    assert data.train.images.shape == (300, 1, 8, 8)
    assert data.test.images.shape == (1497, 1, 8, 8)
    for split in (data.train, data.test):
        assert split.labels.unique().tolist() == list(range(10))
        assert (int(split.images.min()), int(split.images.max())) == (0, 255)
    assert source("digits").classes == 10


def test_digits_are_normalised_by_what_the_training_images_give(tmp_path: Path) -> None:
    data = load("digits", tmp_path)
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx((float(pixels.mean()),), abs=5e-5)
    assert data.std == pytest.approx((float(pixels.std()),), abs=5e-5)


def test_digits_are_the_same_whatever_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = load("digits", tmp_path)
    torch.manual_seed(2)
    second = load("digits", tmp_path)
    assert same(first.train, second.train)
    assert same(first.test, second.test)


# -- held out ---------------------------------------------------------------------------------------------------------


def numbered(labels: list[int]) -> Dataset:
    """Each image carries its own number."""
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    split = Split(images, torch.tensor(labels))
    return Dataset(split, split[torch.arange(3)], (0.5,), (0.5,), crop=1, flip=False)


def test_holding_out_parts_the_training_set_and_leaves_the_test_set_alone() -> None:
    labels = [0] * 100 + [1] * 50 + [2] * 20 + [3] * 2
    data = numbered(labels)
    tuning = data.held_out()
    trained, held = (split.images[:, 0, 0, 0].tolist() for split in (tuning.train, tuning.test))
    assert sorted(trained + held) == list(range(len(labels)))
    assert tuning.test.labels.bincount().tolist() == [10, 5, 2, 1]  # a tenth of every class, one at least
    for split in (tuning.train, tuning.test):
        numbers = split.images[:, 0, 0, 0].tolist()
        assert split.labels.tolist() == [labels[number] for number in numbers]
    assert sorted(held) != [*range(10), *range(100, 105), 150, 151, 170]  # drawn, and not the first of each class
    assert (tuning.mean, tuning.std, tuning.crop, tuning.flip) == (data.mean, data.std, data.crop, data.flip)


def test_what_is_held_out_is_the_same_whatever_the_random_state() -> None:
    data = numbered([0, 1, 2] * 30)
    torch.manual_seed(1)
    first = data.held_out()
    torch.manual_seed(2)
    assert same(first.test, data.held_out().test)


def test_a_name_asks_for_a_held_out_part(tmp_path: Path) -> None:
    tuning = load("digits:held-out", tmp_path)
    assert same(tuning.test, load("digits", tmp_path).held_out().test)
    assert len(tuning.train) + len(tuning.test) == 300
    assert source("digits:held-out").classes == 10


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"^unknown data set 'cifar_100'; did you mean .*'cifar100'.*\?$"):
        load("cifar_100", tmp_path)
