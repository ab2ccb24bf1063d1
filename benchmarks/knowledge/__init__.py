"""What a trained policy knows, and what its knowledge is worth elsewhere."""
