"""What was asked and what came of it: cells, their records, and the store that keeps them."""
