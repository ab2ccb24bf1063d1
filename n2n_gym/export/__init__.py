"""Exporting a student to files."""
