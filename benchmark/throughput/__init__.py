"""The training speed of every method in a steady state, measured and kept as records."""
