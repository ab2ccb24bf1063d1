"""A run's folder: its options and its history."""
