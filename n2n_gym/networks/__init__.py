"""Networks as layer sequences, and the decisions that edit them, without torch."""
