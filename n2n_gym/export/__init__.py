"""Files that a student is written to."""
