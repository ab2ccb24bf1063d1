"""N2N-Bench's tables: making them, and checking their rules."""
