"""What a student may take."""
