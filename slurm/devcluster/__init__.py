"""A whole SLURM on one machine, with GPUs that are only names: for the tests, and for whoever wants to try a submit."""


def refusal(sentence: str) -> ValueError:
    """A Refusal; imported no earlier, since the class comes with torch, and a shell's ``env`` must not wait for it."""
    from kdbench.methods.refusal import Refusal

    return Refusal(f"devcluster: {sentence}")
