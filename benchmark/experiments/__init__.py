"""Cell, grid, plan, run, record, store."""
