"""The check, before a search, that for each limit there is a student that keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, compress
from typing import Final

from n2n_gym.common.quantities import show_quantity
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals, without
from n2n_gym.networks.scaling import narrowest
from n2n_gym.resources import RESOURCES, ResourceError
from n2n_gym.resources.resource import is_computed

# A local search needs the amounts of hundreds of students.
COMPUTED: Final = tuple(name for name in RESOURCES if is_computed(RESOURCES[name]))


def refuse_if_out_of_reach(requirements: Requirements, granularity: str) -> None:
    """Raise a ValueError if a limit is kept by none of the students tried.

    For each limit, the teacher and the students of ``smallest`` are tried until one
    keeps the limit with its safety margin. The error is no proof that the limit cannot
    be kept: several removals at once can lead to a student that is never tried.
    """
    if not requirements:
        return
    teacher = requirements.teacher
    for name, aim in requirements.aims.items():
        least = math.inf
        guides = [name] if name in COMPUTED else COMPUTED
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
            show = partial(show_quantity, name, digits=4)
            spare = f", and {show(bound - aim)} have to be left"
            raise ValueError(
                f"no student keeps the limit {name} <= {show(bound)}: the smallest "
                f"found takes {show(least)}, the teacher {show(whole)}"
                f"{spare if least <= bound else ''}"
            )


def smallest(
    teacher: Architecture,
    granularity: str,
    guides: Sequence[str] = COMPUTED,
    keep: frozenset[str] = frozenset(),
) -> Iterator[Architecture]:
    """Students that need few resources, each as narrow as possible.

    The first student is the teacher, narrowed. The second lacks all layers that can be
    removed one after another. The others are the results of local searches, one for
    each guide: single removals are undone or added as long as this reduces the
    resource. For a network of hundreds of layers, a local search takes minutes.

    Args:
        guides: Names of computed resources to reduce.
        keep: Names of layers that stay unchanged.
    """
    offered = removals(teacher, granularity, keep=keep)
    yield narrowest(teacher, keep=keep)
    yield narrowest(without(teacher, offered, keep=keep), keep=keep)
    for name in guides:
        yield _descend(teacher, name, granularity, keep)


def _taken(
    requirements: Requirements, student: Architecture
) -> dict[str, float] | None:
    """The student's resources, or None if they cannot be measured.

    Raises:
        ValueError: The teacher's resources cannot be measured.
    """
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
    """The student that needs least of a resource, by a local search over removals.

    Args:
        name: Name of the computed resource.
    """
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
