"""The tasks of N2N-Bench: the table, the reward and the limit of each id.

An id always means the same task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


class BenchTask(NamedTuple):
    """One task.

    Attributes:
        table: The table's name.
        reward: The environments' argument ``reward``.
        limit: A limited resource, and its limit as a fraction of the teacher's amount.
    """

    table: str
    reward: str
    limit: tuple[str, float] | None = None


ENTRY: Final = "n2n_gym.bench:BenchEnv"
# Reward and limit, by the last part of an id.
AIMS: Final[Mapping[str, tuple[str, tuple[str, float] | None]]] = {
    "": ("n2n", None),
    "-Params1.25": ("accuracy", ("num_params", 1 / 1.25)),
    "-Params1.5": ("accuracy", ("num_params", 1 / 1.5)),
    "-Params1.75": ("accuracy", ("num_params", 1 / 1.75)),
    "-Params2": ("accuracy", ("num_params", 1 / 2)),
    "-Params2.5": ("accuracy", ("num_params", 1 / 2.5)),
    "-MACs1.5": ("accuracy", ("num_macs", 1 / 1.5)),
    "-MACs2": ("accuracy", ("num_macs", 1 / 2)),
}
# The complete tables, each with aims that meet the rules of docs/n2n-bench.md. Each
# limit leaves more than 300 students, the largest budget.
_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "remove-residual": ("-Params1.5", "-Params2"),
    "remove-plain": ("", "-Params1.5", "-Params2"),
    "shrink-residual": ("-Params1.5",),
    "shrink-inverted": ("",),
    "compress-residual": ("", "-Params1.25"),
}

# Tables on which settings of agents may be chosen; the others are for the headline.
DEVELOPMENT: Final = ("remove-plain", "shrink-residual")


def tasks_of(table: str, aims: Iterable[str]) -> dict[str, BenchTask]:
    """The tasks of a table, by id.

    The ids of the table "remove-residual" contain "Remove-Residual".

    Args:
        aims: Last parts of the ids, from ``AIMS``.
    """
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
