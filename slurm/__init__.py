"""How cells reach a cluster."""
