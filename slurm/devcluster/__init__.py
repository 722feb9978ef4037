"""A whole SLURM on one machine, with GPUs that are only names: for the tests, and for whoever wants to try a submit."""
