"""Runs cells on a SLURM cluster."""
