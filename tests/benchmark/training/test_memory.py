"""What a teacher has said is looked up, and is what it would say now, whatever happened to the file in between."""

import errno
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from kdbench.benchmark.data import Dataset
from kdbench.benchmark.data.views import Draw, Views, draws
from kdbench.benchmark.training import memory
from kdbench.benchmark.training.memory import RememberingTeacher, affordable, limit, rememberable, size
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Needs
from kdbench.refusal import Refusal

BOTH = Needs(teacher_embedding=True)
Make = Callable[..., Chain]


@pytest.fixture
def views(dataset: Dataset) -> Views:
    return Views(dataset, augment=True)


@pytest.fixture
def teacher(make_student: Make) -> Chain:
    return make_student(5)


def remembering(teacher: Chain, views: Views, folder: Path, needs: Needs = BOTH) -> RememberingTeacher:
    return RememberingTeacher(teacher, needs, 60 * views.count, folder)


def batches(data: Dataset, views: Views, size: int = 16, *seed: int) -> list[Batch]:
    """What an epoch of the loop sees."""
    return [batch(data, views, draw) for draw in draws(data.train, views.count, size, *seed)]


def batch(data: Dataset, views: Views, draw: Draw) -> Batch:
    images, labels = views.normalise(views.bytes(draw.index, draw.view)), data.train.labels[draw.index]
    return Batch((images,), labels, draw.index, torch.ones(()), Generator(), view=draw.number)


def heard(teacher: Callable[[Batch], Trace], seen: list[Batch]) -> list[Tensor]:
    """Logits and embeddings side by side."""
    return [torch.cat([trace.logits, trace.embedding], 1) for trace in map(teacher, seen)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# -- what is heard ----------------------------------------------------------------------------------------------------


def test_a_thousand_answers_are_the_live_teachers_but_for_their_rounding(
    dataset: Dataset, views: Views, teacher: Chain, tmp_path: Path
) -> None:
    seen = [part for epoch in range(17) for part in batches(dataset, views, 16, epoch)]
    live = heard(LiveTeacher(teacher, BOTH), seen)
    first, then = remembering(teacher, views, tmp_path), remembering(teacher, views, tmp_path)
    cold, warm = heard(first, seen), heard(then, seen)
    assert sum(map(len, live)) > 1000
    assert same(cold, warm)
    for a, b in zip(live, warm, strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(b, a, rtol=2**-11, atol=2**-24)
    assert then.share == 1 and 0 < first.share < 1  # in 17 epochs some views come twice


def test_a_warm_memory_runs_no_teacher(dataset: Dataset, views: Views, teacher: Chain, tmp_path: Path) -> None:
    seen = batches(dataset, views)
    before = heard(remembering(teacher, views, tmp_path), seen)
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("it was asked"))
    for link in teacher.links:
        link.register_forward_pre_hook(lambda *_: pytest.fail("it was asked"))
    assert same(heard(remembering(teacher, views, tmp_path), seen), before)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_an_answer_does_not_depend_on_who_was_asked_about_with_it(
    dataset: Dataset, views: Views, teacher: Chain, tmp_path: Path, precision: torch.dtype | None
) -> None:
    teacher.precision = precision
    whole = torch.cat(heard(remembering(teacher, views, tmp_path / "whole"), batches(dataset, views, 60)))
    parts = remembering(teacher, views, tmp_path / "parts")
    heard(parts, batches(dataset, views, 7, 1))  # what another seed has left
    assert torch.equal(torch.cat(heard(parts, batches(dataset, views, 7))), whole)


def test_logits_are_there_for_those_who_want_the_embedding_too(
    dataset: Dataset, views: Views, teacher: Chain, tmp_path: Path
) -> None:
    seen = batches(dataset, views)
    logits = [remembering(teacher, views, tmp_path, Needs())(part).logits for part in seen]
    both = remembering(teacher, views, tmp_path)
    assert same([both(part).logits for part in seen], logits)
    assert both.share == 0  # it had to be asked for the embedding


def test_what_was_not_asked_for_cannot_be_read(dataset: Dataset, views: Views, teacher: Chain, tmp_path: Path) -> None:
    seen = batches(dataset, views)[0]
    for answers in (remembering(teacher, views, tmp_path, Needs()), LiveTeacher(teacher, Needs())):
        trace = answers(seen).detached()
        with pytest.raises(KeyError, match="needs\\(\\) must say teacher_embedding"):
            torch.nn.functional.normalize(trace.embedding)
        with pytest.raises(KeyError, match="needs\\(\\) must say teacher_embedding"):
            trace.logits[:, :1] - trace.embedding
        with pytest.raises(KeyError, match="needs\\(\\) must say teacher_embedding"):
            trace.embedding.norm()
        with pytest.raises(KeyError, match="depth 2 was not asked for"):
            trace[2]


# -- what is believed -------------------------------------------------------------------------------------------------


class Says:
    """A teacher whose logits are what the images are."""

    classes = 64

    def __init__(self) -> None:
        self.asked = 0

    def eval(self) -> "Says":
        return self

    def requires_grad_(self, _: bool) -> "Says":
        return self

    def trace(self, images: Tensor) -> Trace:
        self.asked += 1
        return Trace(images.flatten(1), images)


def saying(folder: Path, rows: int = 40) -> tuple[Says, RememberingTeacher]:
    says = Says()
    return says, RememberingTeacher(says, Needs(), rows, folder)  # type: ignore[arg-type]


def asking(images: Tensor, rows: Tensor | None = None) -> Batch:
    rows = torch.arange(len(images)) if rows is None else rows
    return Batch((images,), rows, rows, torch.ones(()), Generator(), view=rows)


def test_zero_is_remembered_as_next_to_nothing(tmp_path: Path) -> None:
    images = torch.randn(4, 1, 8, 8)
    images[1], images[2, 0, 0, 0] = 0, -1e-30
    says, teacher = saying(tmp_path)
    first = teacher(asking(images)).logits
    assert first[1].eq(2**-24).all() and first[2, 0] == 2**-24
    assert torch.equal(teacher(asking(images)).logits, first)
    assert says.asked == 1


def test_what_fp16_cannot_hold_is_heard_as_it_is_every_time(tmp_path: Path) -> None:
    images = torch.full((3, 1, 8, 8), 1.0001)
    images[1, 0, 3, 3], images[2, 0, 0, 0] = 1e6, torch.nan
    says, teacher = saying(tmp_path)
    first, again = (teacher(asking(images)).logits for _ in range(2))
    assert torch.equal(first[1], images[1].flatten()) and torch.equal(again[1], first[1])
    assert first[2].isnan().any() and again[2].isnan().any()
    assert first[0].eq(1).all() and torch.equal(again[0], first[0])
    assert says.asked == 2


@pytest.mark.parametrize("damage", ["torn", "cut", "gone"])
def test_what_a_killed_writer_or_a_cleaner_left_is_asked_for_again(tmp_path: Path, damage: str) -> None:
    images = torch.randn(40, 1, 8, 8)
    says, teacher = saying(tmp_path)
    right = teacher(asking(images)).logits
    file = tmp_path / "logits.fp16"
    match damage:
        case "torn":
            content = bytearray(file.read_bytes())
            content[128 * 7 + 60 : 128 * 8] = bytes(68)
            file.write_bytes(content)
        case "cut":
            os.truncate(file, 1000)
        case "gone":
            file.unlink()
    says, teacher = saying(tmp_path)
    assert torch.equal(teacher(asking(images)).logits, right)
    assert says.asked == 1
    assert torch.equal(saying(tmp_path)[1](asking(images)).logits, right)


def test_a_full_disk_ends_remembering_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(40, 1, 8, 8)
    right = saying(tmp_path / "other")[1](asking(images)).logits
    _, teacher = saying(tmp_path)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(memory.os, "pwrite", full)
    with pytest.warns(UserWarning, match="stores no more answers: No space left on device") as warned:
        heard = [teacher(asking(images)).logits for _ in range(2)]
    assert same(heard, [right, right])
    assert len(warned) == 1


def test_processes_that_write_at_once_hear_nothing_but_what_the_teacher_said(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=listen, args=(tmp_path, seed)) for seed in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert np.fromfile(tmp_path / "logits.fp16", np.float16).all()  # and all of it is there


def listen(folder: Path, seed: int, views: int = 500) -> None:
    """Rounds through all views, each process in an order of its own; the file vanishes under neither."""
    said = torch.randn(views, 1, 8, 8, generator=Generator().manual_seed(0))
    order = Generator().manual_seed(seed)
    for _ in range(6):
        _, teacher = saying(folder, views)
        for rows in torch.randperm(views, generator=order).split(20):
            answer = teacher(asking(said[rows], rows)).logits
            if not torch.equal(answer, said[rows].flatten(1).half().float()):
                os._exit(1)
        if seed == 1:  # half of it is lost, so that both write again
            with (folder / "logits.fp16").open("r+b") as file:
                file.write(bytes(views * 64))
    _, teacher = saying(folder, views)
    teacher(asking(said))
    os._exit(0)


# -- when there is a memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "needs",
    [
        Needs(teacher=frozenset({2})), Needs(live_teacher=True), Needs(input_grad=True), Needs(teacher_train=True),
        Needs(views=("recipe", "strong")),
    ],
)  # fmt: skip
def test_who_listens_to_more_is_answered_live(teacher: Chain, needs: Needs) -> None:
    assert not rememberable(needs, teacher)
    assert rememberable(BOTH, teacher)
    assert rememberable(replace(needs, teacher=frozenset(), live_teacher=False, input_grad=False, teacher_train=False,
                                views=("recipe",)), teacher)  # fmt: skip


def test_its_size_is_that_of_its_files(views: Views, teacher: Chain, tmp_path: Path) -> None:
    remembering(teacher, views, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == size(BOTH, teacher, 60 * views.count)
    assert sum(file.stat().st_blocks for file in tmp_path.iterdir()) == 0  # of which nothing is taken yet


def test_only_what_can_be_remembered_and_is_not_too_large_is_kept(
    teacher: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_MEMORY_GB", str(size(BOTH, teacher, 60) / 10**9))
    assert affordable(BOTH, teacher, 60)
    assert not affordable(BOTH, teacher, 61)
    assert not affordable(replace(BOTH, live_teacher=True), teacher, 60)


def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0.5")
    assert limit() == 500_000_000
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "inf")
    assert limit() > 10**18
    for wrong in "much", "-1", "nan":
        monkeypatch.setenv("KDBENCH_MEMORY_GB", wrong)
        with pytest.raises(Refusal, match=f"must be a number of gigabytes, 0 or more, got '{wrong}'"):
            limit()
