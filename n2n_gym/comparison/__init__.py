"""Comparison of agents at one budget."""
