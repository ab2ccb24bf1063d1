"""Evaluators: they score students."""
