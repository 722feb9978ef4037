"""From a plan to records: one cell's run, the processes that run cells, and what they report."""
