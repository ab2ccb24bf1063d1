"""Whether any student can keep the limits of a search, before it begins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, compress

from n2n_gym.common.quantities import show_quantity
from n2n_gym.limits.requirements import EXACT, Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals, without
from n2n_gym.networks.scaling import narrowest
from n2n_gym.resources import RESOURCES, ResourceError


def refuse_if_out_of_reach(requirements: Requirements, granularity: str) -> None:
    """Raise a ValueError where no student that is found keeps a limit.

    The teacher is tried, and what ``smallest`` gives; the first that keeps a limit is
    enough. It is no proof: a smaller one may be where several removals at once lead.
    """
    if not requirements:
        return
    teacher = requirements.teacher
    for name, aim in requirements.aims.items():
        least = math.inf
        guides = [name] if name in EXACT else EXACT
        for student in chain(
            [teacher], smallest(teacher, granularity, guides, requirements.keep)
        ):
            if (values := _taken(requirements, student)) is not None:
                least = min(least, values[name])
            if least <= aim:
                break
        else:
            bound = requirements.bounds[name]
            whole = requirements.meter(teacher, teacher)[name]
            spare = f", and {show_quantity(name, bound - aim)} have to be left"
            raise ValueError(
                f"no student keeps the limit {name} <= "
                f"{show_quantity(name, bound)}: the smallest found takes "
                f"{show_quantity(name, least)}, the teacher "
                f"{show_quantity(name, whole)}{spare if least <= bound else ''}"
            )


def smallest(
    teacher: Architecture,
    granularity: str,
    guides: Sequence[str] = EXACT,
    keep: frozenset[str] = frozenset(),
) -> Iterator[Architecture]:
    """Students that take little, each as narrow as can be.

    The teacher; what is left of all removals that are legal one after another; then
    what undoing or adding one removal after another comes to, as long as less is taken
    (of a network of hundreds of layers that takes minutes).

    Args:
        guides: Of what less is taken: resources that can be computed.
        keep: Names of layers that stay as they are.
    """
    offered = removals(teacher, granularity, keep=keep)
    yield narrowest(teacher, keep=keep)
    yield narrowest(without(teacher, offered, keep=keep), keep=keep)
    for name in guides:
        yield _descend(teacher, name, granularity, keep)


def _taken(
    requirements: Requirements, student: Architecture
) -> dict[str, float] | None:
    """None where it cannot be measured; of the teacher that is an error."""
    try:
        return requirements.meter(student, requirements.teacher)
    except ResourceError:
        if student is requirements.teacher:
            raise
        return None


@lru_cache(maxsize=8)
def _descend(
    teacher: Architecture, name: str, granularity: str, keep: frozenset[str]
) -> Architecture:
    """What changing one removal after another comes to, as long as less is taken."""
    decisions = removals(teacher, granularity, keep=keep)

    def student_without(wanted: Sequence[bool]) -> Architecture:
        left = without(teacher, compress(decisions, wanted), keep=keep)
        return narrowest(left, keep=keep)

    def taken(student: Architecture) -> float:
        return RESOURCES[name](student, teacher)

    starts = [[is_removed] * len(decisions) for is_removed in (False, True)]
    best = min(starts, key=lambda wanted: taken(student_without(wanted)))
    found = student_without(best)
    least = taken(found)
    is_better = True
    while is_better:
        is_better = False
        for position in range(len(decisions)):
            other = [*best]
            other[position] = not other[position]
            student = student_without(other)
            if (value := taken(student)) < least:
                best, found, least, is_better = other, student, value, True
    return found
