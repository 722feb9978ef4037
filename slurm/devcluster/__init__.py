"""A private SLURM cluster on one machine, with fake GPUs: for the tests, and to try `submit`."""

from kdbench.refusal import Refusal


def refusal(sentence: str) -> Refusal:
    return Refusal(f"devcluster: {sentence}")
