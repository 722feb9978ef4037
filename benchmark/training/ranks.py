"""Several processes that train one network, each on a device of its own: the ranks of a cell.

All ranks have the same weights and draw the same batches. Each takes its share of every batch, and a step's gradient is
that of the mean over the whole batch, however its images fall to the ranks. Each normalises with the statistics of its
own share, as is usual: so the number of ranks changes what comes out, and is part of a cell's id. What only one may do
the first does: it writes all that is written, and the running statistics of its batch norms are evaluated and kept.
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

PATIENCE = timedelta(minutes=10)  # a rank that is not heard of for so long has ended the run
TROUBLE = "trouble"


class Ranks:
    """This process among those that train one network; alone, it does what it would do anyway."""

    def __init__(self, rank: int = 0, world: int = 1, store: Any = None) -> None:
        self.rank, self.world, self.store = rank, world, store

    @classmethod
    def join(cls, rank: int, world: int, meeting: Path, device: torch.device) -> "Ranks":
        """Wait for the others, at a file that nobody has met at before."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = dist.FileStore(str(meeting), world)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
        return cls(rank, world, store)

    @property
    def own(self) -> tuple[int, ...]:
        """What a rank's own draws (dropout, say) are named by, beside what they are for."""
        return (self.rank,) if self.rank else ()

    # -- what each does ----------------------------------------------------------------------------------------------

    def shares(self, draws: Iterable[Draw]) -> Iterator[Draw]:
        """This rank's share of each step. Where none is left for it, as at the end of an epoch, it looks at the first
        image, and that counts for nothing."""
        for draw in draws:
            if self.world == 1:
                yield draw
            else:
                rows = torch.arange(len(draw.index)).tensor_split(self.world)
                mine = rows[self.rank] if len(rows[self.rank]) else rows[0][:1]
                sizes = tuple(len(part) for part in rows)
                seen = {name: getattr(draw, name)[mine] for name in ("index", "view", "number")}
                yield replace(draw, **seen, sizes=sizes)

    def part(self, images: Images) -> Images:
        if self.world == 1:
            return images
        return images[torch.arange(len(images)).tensor_split(self.world)[self.rank]]

    # -- what they do together ---------------------------------------------------------------------------------------

    def together(self, step: nn.Module) -> nn.Module:
        """The step, whose gradients are the mean over ranks; for one phase, as which parameters a phase leaves alone is
        learned in its first step. All begin with what the first rank has, and what a step changes in memory banks all
        change alike: no buffers are sent around."""
        if self.world == 1:
            return step
        parallel = DistributedDataParallel(step, static_graph=True)
        parallel.broadcast_buffers = False
        return parallel

    def mean(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss terms for the record."""
        if self.world > 1:
            values = torch.stack([term.detach() for term in terms.values()])
            dist.all_reduce(values)
            terms = dict(zip(terms, values / self.world, strict=True))
        return {name: term.detach() for name, term in terms.items()}

    def summed(self, values: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(values)
        return values

    # -- what the first one says -------------------------------------------------------------------------------------

    def levelled(self, network: nn.Module) -> nn.Module:
        """The network with the running statistics that the first rank has."""
        if self.world > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)
        return network

    def told(self, word: bool) -> bool:
        """The first rank's word, where all must do the same at the same step, or wait for each other for ever."""
        if self.world == 1:
            return word
        flag = torch.tensor(int(word))
        dist.broadcast(flag, 0)
        return bool(flag)

    def given(self, thing: Any) -> Any:
        """What the first rank has."""
        if self.world == 1:
            return thing
        things = [thing]
        dist.broadcast_object_list(things, 0)
        return things[0]

    # -- what went wrong ---------------------------------------------------------------------------------------------

    def complain(self, trouble: str) -> None:
        """Leave word before this process ends: to the others only a connection is closed."""
        if self.store:
            self.store.set(TROUBLE, trouble)

    def trouble(self) -> str:
        return self.store.get(TROUBLE).decode() if self.store and self.store.check([TROUBLE]) else ""


ALONE = Ranks()
