"""Knowledge in the features: the teacher's values on the way to its answer."""
