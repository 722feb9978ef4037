"""kdbench: which knowledge should a small network take from a large one — logits, features, gradients or relations?

The rooms stand at the top of the repository and are linked into this package:

- ``kdbench.methods``: what knowledge is and how it travels;
- ``kdbench.benchmark``: from a grid to a leaderboard;
- ``kdbench.slurm``: how cells reach a cluster.

What every room shares lies beside them and imports nothing heavy: ``kdbench.refusal``.
"""

__version__ = "0.1.0"
