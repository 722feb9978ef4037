"""One step's forward pass as the loop calls it: as it stands, or compiled."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.teacher import Answers, LiveTeacher, NoTeacher
from kdbench.methods.method import Batch

Forward = Callable[[Batch, bool, Sequence[int]], dict[str, Tensor]]


class Uncompilable(RuntimeError):
    """torch refuses to compile this step."""


def forward(engine: Engine, step: nn.Module, ask_teacher: Answers, full: int) -> Forward:
    """The terms of a batch, with cross-entropy or without. Only batches of ``full`` images are worth a compilation:
    the partial one at the end of an epoch would ask for another."""

    def eager(batch: Batch, task: bool, sizes: Sequence[int]) -> dict[str, Tensor]:
        return step(batch, ask_teacher(batch), task, sizes)

    if engine.compile != "on":
        return eager

    import torch._dynamo  # takes a second, and most runs never need it
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    if not isinstance(ask_teacher, LiveTeacher | NoTeacher):
        ask_teacher = torch.compiler.disable(ask_teacher)  # it may look things up in a file
    torch.compiler.reset()  # what other cells of this process have compiled counts towards the limit below
    # A step that is compiled over and over would end up eager, sooner in a run that was never interrupted.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    fast = torch.compile(eager, dynamic=False, **engine.compile_options)

    def compiled(batch: Batch, task: bool, sizes: Sequence[int]) -> dict[str, Tensor]:
        if len(batch.index) < full:
            return eager(batch, task, sizes)
        try:
            return fast(batch, task, sizes)
        except (FailOnRecompileLimitHit, TorchDynamoException) as error:
            raise Uncompilable(" ".join(str(error).split())[:300]) from error

    return compiled
