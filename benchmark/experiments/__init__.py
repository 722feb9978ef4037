"""Experiments: cells, grids, plans, runs, records and the store."""
