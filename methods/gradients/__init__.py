"""Knowledge in the gradients: how a network's answer would change."""
