"""One step's forward pass as the loop calls it: eager or compiled."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.teacher import Answers, LiveTeacher, NoTeacher
from kdbench.methods.method import Batch
from kdbench.refusal import in_a_line

Forward = Callable[[Batch, bool, Sequence[int]], dict[str, Tensor]]


class Uncompilable(RuntimeError):
    """torch cannot compile this step."""


def forward(engine: Engine, step: nn.Module, ask_teacher: Answers, full: int) -> Forward:
    """A function that returns the loss terms of a batch, with or without cross-entropy.

    Only batches of ``full`` images are compiled: the partial batch at the end of an epoch would need a second
    compilation.
    """

    def eager(batch: Batch, task: bool, sizes: Sequence[int]) -> dict[str, Tensor]:
        return step(batch, ask_teacher(batch), task, sizes)

    if engine.compile != "on":
        return eager

    import torch._dynamo  # takes a second; most runs do not need it
    import torch._functorch.config
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    if not isinstance(ask_teacher, LiveTeacher | NoTeacher):
        ask_teacher = torch.compiler.disable(ask_teacher)  # it may read answers from a file
    torch.compiler.reset()  # compilations of other cells in this process count towards the limit below
    # A step that is recompiled too often would fall back to eager, and sooner in a run that was never interrupted.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # The backward pass is compiled with the forward pass, so that a failure of either is raised here.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    fast = torch.compile(eager, dynamic=False, **engine.compile_options)

    def compiled(batch: Batch, task: bool, sizes: Sequence[int]) -> dict[str, Tensor]:
        if len(batch.index) < full:
            return eager(batch, task, sizes)
        try:
            return fast(batch, task, sizes)
        except (FailOnRecompileLimitHit, TorchDynamoException) as error:
            raise Uncompilable(in_a_line(error)) from error

    return compiled
