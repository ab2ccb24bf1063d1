"""A run's folder: its options, its history and its inputs' fingerprints."""
