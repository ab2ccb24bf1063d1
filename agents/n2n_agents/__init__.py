"""Agents that use only the Gymnasium interface."""
