"""From a grid to a leaderboard."""
