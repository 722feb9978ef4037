"""kdbench: which knowledge should a small network take from a large one — logits, features, gradients or relations?

The subpackages are top-level folders of the repository, linked into this package:

- ``kdbench.methods``: the methods that transfer knowledge;
- ``kdbench.benchmark``: from a grid to a leaderboard;
- ``kdbench.slurm``: runs cells on a cluster.

Code that all subpackages share is beside them and imports nothing heavy: ``kdbench.refusal``.
"""

__version__ = "0.1.0"
