"""The scores of students, shared by all processes and runs."""

from n2n_gym.scores.entry import UNKNOWN, Entry, Key, Provenance, canonical
from n2n_gym.scores.files import read_scores, write_scores
from n2n_gym.scores.store import Merged, ScoreStore

__all__ = [
    "UNKNOWN",
    "Entry",
    "Key",
    "Merged",
    "Provenance",
    "ScoreStore",
    "canonical",
    "read_scores",
    "write_scores",
]
