"""A whole SLURM on one machine, with GPUs that are only names: for the tests, and for whoever wants to try a submit."""

from kdbench.refusal import Refusal


def refusal(sentence: str) -> Refusal:
    return Refusal(f"devcluster: {sentence}")
