"""Agents that know the Gymnasium interface alone."""
