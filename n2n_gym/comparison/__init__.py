"""Agents compared at one budget."""
