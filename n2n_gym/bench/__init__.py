"""N2N-Bench: compression tasks with a complete table of students. Imports no torch."""

from n2n_gym.bench.env import BenchEnv
from n2n_gym.bench.table import Table, find_task, load_table, read_table, write_table

__all__ = [
    "BenchEnv",
    "Table",
    "find_task",
    "load_table",
    "read_table",
    "write_table",
]
