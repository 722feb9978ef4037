"""Logits without a network: what a method that reads nothing else is told."""

from dataclasses import replace

from torch import Tensor

from kdbench.methods.chain import Trace


def trace(*views: Tensor) -> Trace:
    """The trace of a pass that gave these logits, one view after another."""
    seen = tuple(Trace(logits, embedding=logits) for logits in views)
    return replace(seen[0], views=seen)
