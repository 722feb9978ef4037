"""Knowledge in the labels: no teacher at all."""
