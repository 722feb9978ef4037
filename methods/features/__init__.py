"""Knowledge in the features: what the teacher sees on its way to an answer."""
