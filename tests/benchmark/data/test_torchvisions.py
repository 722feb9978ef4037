"""What torchvision knows: packed, in its own folders, damaged, and without a network."""

import gzip
import pickle
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from kdbench.benchmark.data import DATASETS, Dataset, load, source
from kdbench.benchmark.data.torchvisions import KEPT
from kdbench.refusal import Refusal

Arrays = dict[str, np.ndarray[Any, Any]]


def drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """20 images to train on and 8 to test with; as far as anyone knows, that is all of the data set."""
    known = source(name)
    monkeypatch.setitem(DATASETS._things, name, replace(known, train=20, test=8))  # type: ignore
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (20, *known.image), dtype=np.uint8),
        "y_train": draw.integers(0, known.classes, 20),
        "x_test": draw.integers(0, 256, (8, *known.image), dtype=np.uint8),
        "y_test": draw.integers(0, known.classes, 8).astype(np.uint8),
    }


def assert_holds(data: Dataset, arrays: Arrays) -> None:
    for part, split in (("train", data.train), ("test", data.test)):
        assert np.array_equal(split.images.numpy(), arrays[f"x_{part}"])
        assert split.labels.tolist() == arrays[f"y_{part}"].tolist()
        assert split.labels.dtype == torch.int64
        assert split.images.is_contiguous()


@pytest.fixture(params=KEPT)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


# -- packed -----------------------------------------------------------------------------------------------------------


def test_each_is_read_from_a_packed_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = drawn(name, monkeypatch)
    np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore
    data = load(name, tmp_path)
    assert_holds(data, arrays)
    assert len(data.mean) == len(data.std) == source(name).image[0]
    assert data.crop == 4
    assert data.flip == (name != "svhn")


def test_cifar_10_has_statistics_of_its_own() -> None:
    assert (KEPT["cifar100"].mean, KEPT["cifar100"].std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert KEPT["cifar10"].mean == (0.4914, 0.4822, 0.4465)


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    return drawn("cifar100", monkeypatch)


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
    np.savez_compressed(file, **arrays)  # type: ignore
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
        ({"x_train": np.zeros((20, 32, 32, 3), np.uint8)}, r"the training images must be uint8 of shape \(20, 3, 32"),
        ({"x_test": np.zeros((8, 3, 32, 32), np.float32)}, "the test images must be uint8"),
        ({"x_test": np.zeros((7, 3, 32, 32), np.uint8)}, "the test images must be uint8"),
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
    np.savez(tmp_path / "cifar100.npz", **held)  # type: ignore
    with pytest.raises(Refusal, match=says):
        load("cifar100", tmp_path)


# -- torchvision's own files ------------------------------------------------------------------------------------------


def lay_cifar(kind: Any, label: str, folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / kind.base_folder
    place.mkdir()

    def write(file: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (place / file).write_bytes(data)
        return md5(data).hexdigest()

    for part in ("train", "test"):
        rows = {"data": arrays[f"x_{part}"].reshape(-1, 3072), label: arrays[f"y_{part}"].tolist()}
        monkeypatch.setattr(kind, f"{part}_list", [[part, write(part, rows)]])
    meta = kind.meta | {"md5": write(kind.meta["filename"], {kind.meta["key"]: [str(n) for n in range(100)]})}
    monkeypatch.setattr(kind, "meta", meta)


def lay_idx(folder: Path, arrays: Arrays) -> None:
    """As unpacked, without the archives: torchvision takes such a folder as it is."""
    place = folder / "FashionMNIST" / "raw"
    place.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for letter, what in (("x", "images-idx3"), ("y", "labels-idx1")):
            array = arrays[f"{letter}_{part}"].astype(np.uint8)
            array = array[:, 0] if letter == "x" else array
            head = np.array([0x800 + array.ndim, *array.shape], ">i4")
            (place / f"{prefix}-{what}-ubyte").write_bytes(head.tobytes() + array.tobytes())


def lay_mat(folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images last, and the digit 0 as class 10."""
    listed = {}
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"].transpose(2, 3, 1, 0), arrays[f"y_{part}"]
        file = folder / f"{part}_32x32.mat"
        savemat(file, {"X": images, "y": np.where(labels == 0, 10, labels)[:, None]})
        listed[part] = ["http://nowhere", file.name, md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)


@pytest.fixture
def laid(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, offline: None) -> Arrays:
    """A few images as torchvision lays them out, with checksums that fit."""
    arrays = drawn(name, monkeypatch)
    match name:
        case "cifar10":
            lay_cifar(datasets.CIFAR10, "labels", tmp_path, arrays, monkeypatch)
        case "cifar100":
            lay_cifar(datasets.CIFAR100, "fine_labels", tmp_path, arrays, monkeypatch)
        case "fashion-mnist":
            lay_idx(tmp_path, arrays)
        case "svhn":
            lay_mat(tmp_path, arrays, monkeypatch)
    return arrays


def test_each_is_read_from_torchvisions_own_files(tmp_path: Path, name: str, laid: Arrays) -> None:
    assert_holds(load(name, tmp_path), laid)


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("part", ["first", "last"])
def test_files_that_are_damaged_or_gone_are_refused(
    tmp_path: Path, name: str, laid: Arrays, part: str, damage: str
) -> None:
    files = sorted(tmp_path.glob(KEPT[name].files))
    file = files[0] if part == "first" else files[-1]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(Refusal) as refused:
        load(name, tmp_path)
    assert str(refused.value).startswith(f"{name}: {KEPT[name].files} in {tmp_path} is incomplete or damaged (")
    assert str(refused.value).endswith("; remove it, or name another folder with --data")
    assert "\n" not in str(refused.value)


def test_without_data_and_without_a_network_the_refusal_says_what_to_do(
    tmp_path: Path, name: str, offline: None
) -> None:
    for _ in range(2):  # what the first attempt left behind does not change what is said
        with pytest.raises(Refusal) as refused:
            load(name, tmp_path)
        said = str(refused.value)
        assert "\n" not in said
        for part in (f"{name}.npz", KEPT[name].files, str(tmp_path), "no route to host", "--data"):
            assert part in said


def test_a_download_that_was_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = drawn("fashion-mnist", monkeypatch)
    there = tmp_path / "there"
    lay_idx(there, arrays)
    served = {f"{file.name}.gz": gzip.compress(file.read_bytes()) for file in there.glob("FashionMNIST/raw/*")}
    sums = [(file, md5(content).hexdigest()) for file, content in served.items()]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)

    def retrieve(url: str, file: str) -> None:
        Path(file).write_bytes(served[Path(file).name])

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)
    started, (file, content) = tmp_path / "FashionMNIST" / "raw", next(iter(served.items()))
    started.mkdir(parents=True)
    (started / file).write_bytes(content[:10])
    assert_holds(load("fashion-mnist", tmp_path), arrays)


def test_a_download_that_is_not_what_was_promised_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(url: str, file: str) -> None:
        Path(file).write_bytes(b"please log in to this network")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)
    with pytest.raises(Refusal, match=r"^svhn: found neither .* could not download it \(File not found or corrupted"):
        load("svhn", tmp_path)
