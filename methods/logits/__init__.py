"""Knowledge in the logits: what the teacher says about every class."""
