"""From a grid to a plan: which cells are asked, which of them can work, and what is left to run."""
