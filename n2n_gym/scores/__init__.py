"""Scores of students, kept for all processes and runs."""

from n2n_gym.scores.entry import Entry, Key, canonical
from n2n_gym.scores.files import read_scores, write_scores
from n2n_gym.scores.store import Merged, ScoreStore

__all__ = [
    "Entry",
    "Key",
    "Merged",
    "ScoreStore",
    "canonical",
    "read_scores",
    "write_scores",
]
