"""Pretraining: trains policies on many teachers; searches start from these policies."""
