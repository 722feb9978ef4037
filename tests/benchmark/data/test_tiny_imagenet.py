"""Tiny-ImageNet: its folder, its odd validation set, and the file in which it is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.benchmark.data import DATASETS, load, packed, source
from kdbench.refusal import Refusal

WNIDS = ["n03", "n01", "n02"]  # the list's order is the classes' order
TRAIN, TEST = 6, 4


def save(file: Path, colour: int | tuple[int, int, int], side: int = 64) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", (side, side), colour).save(file, format="JPEG")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images a class, one of them grey, and four to test with; as far as anyone knows, that is all of it."""
    monkeypatch.setitem(DATASETS._things, "tiny-imagenet", replace(source("tiny-imagenet"), train=TRAIN, test=TEST))  # type: ignore
    root = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        save(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", 40 * number)
        save(root / "train" / wnid / "images" / f"{wnid}_1.JPEG", (200, 40 * number, 0))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("not an image")
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    shown = [("val_3.JPEG", "n01"), ("val_0.JPEG", "n02"), ("val_1.JPEG", "n03"), ("val_2.JPEG", "n01")]
    for name, wnid in shown:
        save(root / "val" / "images" / name, 60 * WNIDS.index(wnid))
    rows = "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in shown)
    (root / "val" / "val_annotations.txt").write_text(rows)
    save(root / "test" / "images" / "test_0.JPEG", 255)
    return root


def test_the_folder_is_read_with_the_validation_images_as_test_set(root: Path) -> None:
    data = load("tiny-imagenet", root.parent)
    assert data.train.images.shape == (TRAIN, 3, 64, 64)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [1, 2, 0, 1]
    assert (data.crop, data.flip) == (8, True)


def test_grey_images_become_three_equal_channels(root: Path) -> None:
    data = load("tiny-imagenet", root.parent)
    grey, colourful = data.train.images[2], data.train.images[3]
    assert torch.equal(grey, torch.full_like(grey, 40))
    assert colourful.float().mean((1, 2)).tolist() == pytest.approx([200, 40, 0], abs=2)  # a JPEG rounds
    for row, label in enumerate(data.test.labels.tolist()):
        assert data.test.images[row].float().mean().item() == pytest.approx(60 * label, abs=2)


def test_it_is_decoded_once_and_kept(root: Path) -> None:
    first = load("tiny-imagenet", root.parent)
    root.rename(root.with_name("moved"))
    again = load("tiny-imagenet", root.parent)
    assert sorted(file.name for file in root.parent.iterdir()) == ["moved", "tiny-imagenet.npz"]
    for one, other in ((first.train, again.train), (first.test, again.test)):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_what_cannot_be_kept_is_used_with_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(out: object, **_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="could not be saved .* no space left on device"):
        data = load("tiny-imagenet", root.parent)
    assert len(data.train) == TRAIN
    assert [file.name for file in root.parent.iterdir()] == [root.name]  # no half of it


def test_packing_is_whole_or_not_at_all(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("tiny-imagenet", root.parent)
    file = tmp_path / "kept.npz"
    packed.pack(data.train, data.test, file)
    before = file.read_bytes()

    def killed(out: object, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        packed.pack(data.test, data.test, file)
    assert file.read_bytes() == before
    assert not list(tmp_path.glob(".kept*"))


def test_without_the_folder_the_refusal_says_where_it_must_be_put(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"found neither tiny-imagenet.npz nor tiny-imagenet-200/ in .*; unpack .* there"):
        load("tiny-imagenet", tmp_path)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no list of classes": ("wnids.txt", Path.unlink, "is incomplete"),
    "no list of labels": ("val/val_annotations.txt", Path.unlink, "is incomplete"),
    "an unknown class": ("wnids.txt", lambda file: file.write_text("n03\nn02\n"), "is incomplete .*n01"),
    "labels cut in a line": ("val/val_annotations.txt", lambda file: file.write_text("val_3.J"), "is incomplete"),
    "a training image gone": ("train/n01/images/n01_1.JPEG", Path.unlink, "must hold 6 training images, got 5"),
    "labels cut": (
        "val/val_annotations.txt",
        lambda file: file.write_text("val_0.JPEG\tn02\t0\n"),
        "must hold 4 test images, got 1",
    ),
    "a test image gone": ("val/images/val_2.JPEG", Path.unlink, r"val_2\.JPEG must be an image of 64x64"),
    "an image cut": ("train/n02/images/n02_1.JPEG", cut, r"n02_1\.JPEG must be an image of 64x64"),
    "an empty image": ("train/n02/images/n02_0.JPEG", lambda file: file.write_bytes(b""), "must be an image of 64x64"),
    "a large image": ("train/n02/images/n02_0.JPEG", lambda file: save(file, 9, side=65), "must be an image of 64x64"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_is_not_whole_is_refused_and_not_kept(root: Path, damage: str) -> None:
    name, act, says = DAMAGE[damage]
    act(root / name)
    with pytest.raises(Refusal, match=says) as refused:
        load("tiny-imagenet", root.parent)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("unpack tiny-imagenet-200.zip again (cs231n.stanford.edu/tiny-imagenet-200.zip)")
    assert not (root.parent / "tiny-imagenet.npz").exists()
