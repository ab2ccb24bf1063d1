"""How a student gets its score."""
