"""Knowledge in the gradients: how the answer would change."""
