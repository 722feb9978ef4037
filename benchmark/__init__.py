"""The benchmark: from a grid to a leaderboard."""
