"""Our records beside other numbers: papers' tables, papers' claims, and somebody else's records of the same cells."""
