"""A run that is killed again and again, in both precisions: ``worker.py <folder> <seed>``.

One parent imports torch and forks; each child takes the run up where the child before it was killed, until it dies by
SIGKILL itself: by its own hand at a chosen moment, or by its parent's. In the end one child is let live, and another
does the whole run undisturbed: what they end with must be the same.
"""

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.benchmark import networks
from kdbench.benchmark.data import Dataset, Split
from kdbench.benchmark.training import loop
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method, Phase

CLASSES, IMAGE = 4, (1, 8, 8)
MOMENTS = (
    *("in losses", "after a step", "after the partial step", "in evaluation"),
    *("before writing", "while writing", "before the renames", "between the renames", "after the renames"),
)
SELDOM = ("after the partial step", "in evaluation")  # once an epoch, not at every step
KILLS = (*MOMENTS, *MOMENTS, "from outside", "from outside", "from outside")
EPOCHS = 24  # of four steps: 60 images in batches of 16: the last is one of 12


class Remembering(Method):
    """Everything that a checkpoint must restore: an adapter, a memory bank, draws of its own, an initial phase."""

    source = "features"
    phases = (Phase("adapter", 2, student=False),)

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.adapter = nn.Sequential(nn.Linear(student.embedding_width, 5), nn.Dropout(0.3), nn.Linear(5, 5))
        self.register_buffer("bank", torch.zeros(facts.size, 5))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        reach("in losses")
        bank, count = self.get_buffer("bank"), self.get_buffer("count")
        adapted = self.adapter(student.embedding)
        others = torch.randint(len(bank), (len(batch.index),), generator=batch.generator)
        pull = (adapted - bank[others] - 0.1).square().mean()
        bank[batch.index] = 0.5 * bank[batch.index] + 0.5 * adapted.detach()
        count += 1
        return {"pull": pull, "logits": 0.1 * (student.logits - teacher.logits).square().mean()}


def network(seed: int, dropout: float) -> Chain:
    torch.manual_seed(seed)
    chain = networks.build("resnet8x0.25", CLASSES, IMAGE)
    links = [*chain.links[:5], nn.Dropout(dropout), *chain.links[5:]]
    return Chain(chain.network, links, stages=chain.stages, image=IMAGE)


def dataset() -> Dataset:
    draw = torch.Generator().manual_seed(0)

    def split(images: int) -> Split:
        return Split(
            torch.randint(256, (images, *IMAGE), generator=draw).to(torch.uint8), torch.arange(images) % CLASSES
        )

    return Dataset(split(60), split(20), mean=(0.5,), std=(0.25,), crop=1, flip=True)


def run(folder: Path, precision: str, seen: Callable[[loop.Live], None], every: float = 0) -> dict[str, Any]:
    """The whole run, or what is left of it."""
    schedule: dict[str, Any] = {"fp32": {"milestones": (3, 9)}, "bf16": {"schedule": "onecycle"}}[precision]
    recipe = Recipe(epochs=EPOCHS, batch=16, lr=0.05, precision=precision, **schedule)
    data, student, teacher = dataset(), network(1, dropout=0.2), network(2, dropout=0.0)
    torch.manual_seed(3)
    method = Remembering(student, teacher, recipe.facts(CLASSES, data.train.labels))
    torch.seed()  # what the process itself draws must not matter
    steps = loop.training(student, teacher, method, data, recipe, 5, checkpoints=Checkpoints(folder, every))
    history = loop.drive(steps, seen)
    rows = [asdict(epoch) | {"seconds": None} for epoch in history]
    return {"student": student.state_dict(), "method": method.state_dict(), "history": rows}


# -- killing ----------------------------------------------------------------------------------------------------------


class Fate:
    """When this process is to die: nobody is, until it is told so."""

    folder = Path()
    moment = ""
    count = 0


def reach(moment: str) -> None:
    """Called at every moment at which this process may be about to die."""
    if moment == Fate.moment:
        Fate.count -= 1
        if Fate.count <= 0:
            die(moment)


def die(moment: str) -> None:
    note("deaths", moment)
    os.kill(os.getpid(), signal.SIGKILL)


def note(name: str, line: str) -> None:
    with (Fate.folder / name).open("a") as file:
        file.write(f"{line}\n")


def noted(name: str) -> list[str]:
    file = Fate.folder / name
    return file.read_text().splitlines() if file.exists() else []


def seen(live: loop.Live) -> None:
    if (live.phase, live.epoch, live.step) == ("main", 1, 1) and "between phases" not in noted("deaths"):
        die("between phases")
    note("steps", f"{live.phase} {live.epoch} {live.step}")
    reach("after the partial step" if live.step == live.steps else "after a step")


def hook() -> None:
    """Make the moments inside the library ones that are reached."""

    def around(owner: Any, name: str, before: str, after: str = "") -> None:
        real = getattr(owner, name)

        def hooked(*args: Any, **kwargs: Any) -> Any:
            reach(before)
            result = real(*args, **kwargs)
            reach(after)
            return result

        setattr(owner, name, hooked)

    around(loop, "evaluate", "in evaluation")
    around(torch, "save", "before writing")
    around(os, "fsync", "while writing", "before the renames")
    replace = Path.replace

    def replaced(self: Path, target: Path) -> Path:
        part = self.suffix == ".part"
        reach("between the renames" if part else "")
        result = replace(self, target)
        reach("after the renames" if part else "")
        return result

    Path.replace = replaced  # type: ignore[method-assign]


def doomed(precision: str, moment: str, count: int) -> None:
    Fate.moment, Fate.count = moment, count
    hook()
    run(Fate.folder / "killed", precision, seen)


def let_live(precision: str, name: str, every: float) -> None:
    torch.save(run(Fate.folder / name, precision, lambda _: None, every), Fate.folder / f"{name}.pt")


def kill_again_and_again(precision: str, seed: int) -> None:
    draw, fork = random.Random(seed), get_context("fork")
    waiting = draw.sample(KILLS, len(KILLS))
    while waiting:
        moment = waiting.pop()
        count = 1 if moment in SELDOM else draw.randint(1, 4)
        process = fork.Process(target=doomed, args=(precision, moment, count))
        already = len(noted("steps"))
        process.start()
        if moment == "from outside":
            while process.is_alive() and len(noted("steps")) < already + count:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.02))
            process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            sys.exit(f"ended with {process.exitcode} before it was killed {moment}, after {noted('deaths')}")
        if moment == "from outside":
            note("deaths", moment)
        elif noted("deaths")[-1] != moment:  # it died between phases: another must die in its place
            waiting.insert(draw.randint(0, len(waiting)), moment)
    for name, every in (("killed", 0.0), ("undisturbed", math.inf)):
        process = fork.Process(target=let_live, args=(precision, name, every))
        process.start()
        process.join()


if __name__ == "__main__":
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    for each in ("fp32", "bf16"):
        Fate.folder = Path(sys.argv[1], each)
        Fate.folder.mkdir(parents=True)
        kill_again_and_again(each, int(sys.argv[2]))
