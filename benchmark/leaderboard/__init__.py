"""Views over records, regenerated from nothing else."""
