"""A whole run: a teacher in, students out."""
