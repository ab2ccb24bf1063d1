"""N2N-Bench's tables: how they are made, and what has to hold of them."""
