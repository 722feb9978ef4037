"""Knowledge in the logits: the teacher's output for every class."""
