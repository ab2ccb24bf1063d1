"""The tasks of N2N-Bench: which table each id asks, and what a student is worth there.

An id stands for the same task for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


class BenchTask(NamedTuple):
    """One task.

    Attributes:
        table: The table's name.
        reward: As the environments know it.
        limit: A resource, and the share of the teacher's that a student may take.
    """

    table: str
    reward: str
    limit: tuple[str, float] | None = None


ENTRY: Final = "n2n_gym.bench:BenchEnv"
# What a student is worth, by the last part of an id.
AIMS: Final[Mapping[str, tuple[str, tuple[str, float] | None]]] = {
    "": ("n2n", None),
    "-Params4": ("accuracy", ("num_params", 1 / 4)),
    "-Params10": ("accuracy", ("num_params", 1 / 10)),
    "-MACs4": ("accuracy", ("num_macs", 1 / 4)),
    "-MACs10": ("accuracy", ("num_macs", 1 / 10)),
}
# The tables that are whole, each with the aims that its rules let it serve.
_TABLES: Final[Mapping[str, tuple[str, ...]]] = {}


def tasks_of(table: str, aims: Iterable[str]) -> dict[str, BenchTask]:
    """The tasks of a table, by id: "remove-residual" gives Remove-Residual."""
    short = table.title()
    return {
        f"N2NBench/{short}-CIFAR10x16{aim}-v0": BenchTask(table, *AIMS[aim])
        for aim in aims
    }


BENCH: Final[Mapping[str, BenchTask]] = {
    name: task
    for table, aims in _TABLES.items()
    for name, task in tasks_of(table, aims).items()
}
