"""The ranks of a cell: several processes that train one network, each on its own device.

All ranks have the same weights and draw the same batches. Each takes its share of every batch. A step's gradient is
that of the mean over the whole batch, however its images are divided. As is usual, each rank normalises with the
statistics of its own share, so the number of ranks changes the result and is part of a cell's id. Only the first rank
writes files. The running statistics of its batch norms are evaluated and kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdbench.benchmark.data.dataset import Images
from kdbench.benchmark.data.views import Draw

PATIENCE = timedelta(minutes=10)  # a rank that is silent for this long ends the run
TROUBLE = "trouble"


class Ranks:
    """This process among those that train one network; with a single process, nothing changes."""

    def __init__(self, rank: int = 0, world: int = 1, store: Any = None) -> None:
        self.rank, self.world, self.store = rank, world, store

    @classmethod
    def join(cls, rank: int, world: int, meeting: Path, device: torch.device) -> "Ranks":
        """Wait for the other ranks; ``meeting`` is a file that no earlier run has used."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = dist.FileStore(str(meeting), world)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
        return cls(rank, world, store)

    @property
    def own(self) -> tuple[int, ...]:
        """The part of a random stream's name that is specific to this rank (for dropout, say)."""
        return (self.rank,) if self.rank else ()

    # -- per rank ----------------------------------------------------------------------------------------------------

    def shares(self, draws: Iterable[Draw]) -> Iterator[Draw]:
        """This rank's share of each step.

        If no image is left for it, as at the end of an epoch, it takes the first image, which does not count.
        """
        for draw in draws:
            if self.world == 1:
                yield draw
            else:
                parts = {name: getattr(draw, name).tensor_split(self.world) for name in ("index", "view", "number")}
                seen = {name: part[self.rank] if len(part[self.rank]) else part[0][:1] for name, part in parts.items()}
                yield replace(draw, **seen, sizes=tuple(map(len, parts["index"])))

    def part(self, images: Images) -> Images:
        if self.world == 1:
            return images
        return images[torch.arange(len(images)).tensor_split(self.world)[self.rank]]

    # -- over all ranks ----------------------------------------------------------------------------------------------

    def together(self, step: nn.Module) -> nn.Module:
        """The step, with gradients averaged over ranks, for one phase.

        The first step of a phase shows which parameters the phase does not use. All ranks start from the first rank's
        state, and a step changes memory banks alike on all ranks, so no buffers are broadcast.
        """
        if self.world == 1:
            return step
        parallel = DistributedDataParallel(step, static_graph=True)
        parallel.broadcast_buffers = False
        return parallel

    def mean(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss terms averaged over ranks, for the record."""
        if self.world > 1:
            values = torch.stack([term.detach() for term in terms.values()])
            dist.all_reduce(values)
            terms = dict(zip(terms, values / self.world, strict=True))
        return {name: term.detach() for name, term in terms.items()}

    def summed(self, values: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(values)
        return values

    # -- from the first rank -----------------------------------------------------------------------------------------

    def levelled(self, network: nn.Module) -> nn.Module:
        """The network with the first rank's running statistics."""
        if self.world > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)
        return network

    def told(self, word: bool) -> bool:
        """The first rank's decision; ranks that decide differently at a step would deadlock."""
        if self.world == 1:
            return word
        flag = torch.tensor(int(word))
        dist.broadcast(flag, 0)
        return bool(flag)

    def given(self, thing: Any) -> Any:
        """The first rank's object."""
        if self.world == 1:
            return thing
        things = [thing]
        dist.broadcast_object_list(things, 0)
        return things[0]

    # -- errors ------------------------------------------------------------------------------------------------------

    def complain(self, trouble: str) -> None:
        """Store the error before this process ends; the other ranks see only a closed connection."""
        if self.store:
            self.store.set(TROUBLE, trouble)

    def trouble(self) -> str:
        return self.store.get(TROUBLE).decode() if self.store and self.store.check([TROUBLE]) else ""


ALONE = Ranks()
