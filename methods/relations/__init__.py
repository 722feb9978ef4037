"""Knowledge in the relations between images, layers or channels."""
