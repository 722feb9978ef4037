"""What is read as a data set, and what is refused."""

import pickle
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from kdbench.benchmark.data import DATASETS, Dataset, Split, cifar, load, source
from kdbench.methods.refusal import Refusal

Arrays = dict[str, np.ndarray[Any, Any]]


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
    assert len(data.held_out(0.3).test) == 27


def test_a_name_asks_for_a_held_out_part(tmp_path: Path) -> None:
    tuning = load("digits:held-out", tmp_path)
    assert same(tuning.test, load("digits", tmp_path).held_out().test)
    assert len(tuning.train) + len(tuning.test) == 300
    assert source("digits:held-out").classes == 10


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"^unknown data set 'cifar_100'; did you mean .*'cifar100'.*\?$"):
        load("cifar_100", tmp_path)


# -- CIFAR ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """20 images to train on and 8 to test with; as far as anyone knows, that is all of CIFAR-100."""
    monkeypatch.setitem(DATASETS._things, "cifar100", replace(source("cifar100"), train=20, test=8))  # type: ignore
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8),
        "y_train": draw.permutation(100)[:20],
        "x_test": draw.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8),
        "y_test": draw.permutation(100)[:8].astype(np.uint8),
    }


def assert_holds(data: Dataset, arrays: Arrays) -> None:
    for part, split in (("train", data.train), ("test", data.test)):
        assert np.array_equal(split.images.numpy(), arrays[f"x_{part}"])
        assert split.labels.tolist() == arrays[f"y_{part}"].tolist()
        assert split.labels.dtype == torch.int64
        assert split.images.is_contiguous()


def test_cifar_is_read_from_a_packed_file(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "cifar100.npz", **arrays)
    data = load("cifar100", tmp_path)
    assert_holds(data, arrays)
    assert (data.mean, data.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert (data.crop, data.flip) == (4, True)


def test_cifar_10_has_statistics_of_its_own(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "cifar10.npz", **arrays)
    assert cifar.read(tmp_path, "cifar10").mean == (0.4914, 0.4822, 0.4465)


@pytest.fixture
def torchvision_folder(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same images as torchvision lays them out, with checksums that fit."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return md5(data).hexdigest()

    for part in ("train", "test"):
        rows = {"data": arrays[f"x_{part}"].reshape(-1, 3072), "fine_labels": arrays[f"y_{part}"].tolist()}
        monkeypatch.setattr(datasets.CIFAR100, f"{part}_list", [[part, write(part, rows)]])
    checksum = write("meta", {"fine_label_names": [str(label) for label in range(100)]})
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": checksum})
    return tmp_path


def test_cifar_is_read_from_torchvisions_own_folder(torchvision_folder: Path, arrays: Arrays) -> None:
    assert_holds(load("cifar100", torchvision_folder), arrays)


def test_a_damaged_folder_of_torchvisions_is_refused(torchvision_folder: Path) -> None:
    file = torchvision_folder / "cifar-100-python" / "test"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(Refusal, match=r"^cifar100: cifar-100-python/ in .* is not whole .* --data$"):
        load("cifar100", torchvision_folder)


def test_without_data_and_without_a_network_the_refusal_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(Refusal) as refused:
        load("cifar100", tmp_path)
    said = str(refused.value)
    assert "\n" not in said
    for part in ("cifar100.npz", "cifar-100-python/", str(tmp_path), "no route to host", "--data"):
        assert part in said


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda _: b"", lambda _: b"not a zip"], ids=["cut", "flipped", "empty", "text"]
)
def test_a_damaged_packed_file_is_refused(tmp_path: Path, arrays: Arrays, damage: Any) -> None:
    file = tmp_path / "cifar100.npz"
    np.savez_compressed(file, **arrays)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        Refusal, match=r"^.*cifar100\.npz must be an \.npz with x_train, y_train, x_test and y_test: .+"
    ):
        load("cifar100", tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"y_test": None}, "must be an .npz with x_train, y_train, x_test and y_test"),
        ({"y_test": np.array([object()] * 8)}, "must be an .npz with"),
        ({"y_test": np.array(["cat"] * 8)}, "must be an .npz with"),
        ({"x_train": np.zeros((20, 32, 32, 3), np.uint8)}, r"the training images must be bytes of shape \(20, 3, 32"),
        ({"x_test": np.zeros((8, 3, 32, 32), np.float32)}, "the test images must be bytes"),
        ({"x_test": np.zeros((7, 3, 32, 32), np.uint8)}, "the test images must be bytes"),
        ({"y_train": np.full(20, 100)}, "the training set must have 20 labels from 0 to 99"),
        ({"y_train": np.full(20, -1)}, "the training set must have 20 labels from 0 to 99"),
        ({"y_train": np.zeros(19, np.int64)}, "the training set must have 20 labels"),
        ({"y_train": np.zeros((20, 1), np.int64)}, "the training set must have 20 labels"),
    ],
)
def test_a_packed_file_that_holds_something_else_is_refused(
    tmp_path: Path, arrays: Arrays, wrong: dict[str, Any], says: str
) -> None:
    held = {key: value for key, value in (arrays | wrong).items() if value is not None}
    np.savez(tmp_path / "cifar100.npz", **held)
    with pytest.raises(Refusal, match=says):
        load("cifar100", tmp_path)
