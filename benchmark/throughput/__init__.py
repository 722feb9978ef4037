"""How fast every method trains, in a steady state: measured as accuracy is, and kept as records."""
