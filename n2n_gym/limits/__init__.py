"""Limits on a student's resources."""
