"""Tables, pictures and pages that are computed from records only."""
