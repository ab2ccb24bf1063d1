"""Architectures to torch modules and back."""
