"""The whole job: a teacher in, students out."""
