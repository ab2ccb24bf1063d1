"""Whether any student can keep the limits of a search, before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress

from n2n_gym.architecture import Architecture
from n2n_gym.decisions import Removal, removals, without
from n2n_gym.limited import EXACT, Limited, narrowest
from n2n_gym.resources import RESOURCES, ResourceError
from n2n_gym.units import show_quantity


def refuse_if_out_of_reach(limited: Limited, granularity: str) -> None:
    """Raise a ValueError where no student that can be thought of keeps a limit.

    The teacher is thought of, with all widths and kernels at the lowest rate, and what
    is left of all removals that are legal one after another, so shrunk. For what can be
    computed, removals are then undone or added one by one, as long as less is taken.
    """
    if not limited:
        return
    teacher = limited.teacher
    decisions = removals(teacher, granularity)
    candidates = [teacher, *smallest(teacher, decisions)]
    taken = [values for each in candidates if (values := _taken(limited, each))]
    for name, aim in limited.aims.items():
        least = min(values[name] for values in taken)
        if least > aim and name in EXACT:
            least = _descend(teacher, name, decisions)
        if least > aim:
            bound = limited.bounds[name]
            whole = limited.meter(teacher, teacher)[name]
            spare = f", and {show_quantity(name, bound - aim)} have to be left"
            raise ValueError(
                f"no student keeps the limit {name} <= "
                f"{show_quantity(name, bound)}: the smallest takes "
                f"{show_quantity(name, least)}, the teacher "
                f"{show_quantity(name, whole)}{spare if least <= bound else ''}"
            )


def smallest(teacher: Architecture, decisions: Sequence[Removal]) -> list[Architecture]:
    """The teacher, and what all removals leave of it, as narrow as can be."""
    return [narrowest(teacher), narrowest(without(teacher, decisions))]


def _taken(limited: Limited, student: Architecture) -> dict[str, float] | None:
    """None where it cannot be measured; of the teacher that is an error."""
    try:
        return limited.meter(student, limited.teacher)
    except ResourceError:
        if student is limited.teacher:
            raise
        return None


def _descend(teacher: Architecture, name: str, decisions: Sequence[Removal]) -> float:
    """The least of a resource that changing one removal after another comes to."""

    def taken_without(wanted: Sequence[bool]) -> float:
        left = without(teacher, compress(decisions, wanted))
        return RESOURCES[name](narrowest(left), teacher)

    best, least = [False] * len(decisions), math.inf
    for wanted in (best, [True] * len(decisions)):
        value = taken_without(wanted)
        if value < least:
            best, least = wanted, value
    is_better = True
    while is_better:
        is_better = False
        for position in range(len(decisions)):
            other = [*best]
            other[position] = not other[position]
            value = taken_without(other)
            if value < least:
                best, least, is_better = other, value, True
    return least
