"""Recipes, the training loop, and what makes a run survive interruptions."""
