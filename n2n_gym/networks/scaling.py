"""Networks with all widths at one rate: the widest within limits, the narrowest.

None of it needs a score: what is kept is computed or measured on the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from itertools import chain

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import RATES, Shrinkage, shrink, shrinkages
from n2n_gym.networks.layers import PRODUCERS


class OutOfReach(ValueError):
    """No student of this kind is so small."""


def uniform_student(
    teacher: Architecture, num_params: int, *, keep: Set[str] = frozenset()
) -> Architecture:
    """The teacher with all widths at one rate, the largest within a size.

    Args:
        keep: Names of layers that stay as they are.

    Raises:
        OutOfReach: The teacher with all widths at their least has more parameters.
    """
    widths = shrinkages(teacher, ("width",), keep=keep)
    refuse_below(shrink(teacher, dict.fromkeys(widths, 0.0)), num_params)
    return uniform_within(
        teacher, lambda thin: thin.num_params <= num_params, 20, keep=keep
    )


def uniform_within(
    teacher: Architecture,
    is_within: Callable[[Architecture], bool],
    steps: int,
    *,
    block: int = 1,
    keep: Set[str] = frozenset(),
) -> Architecture:
    """The teacher with all widths at one rate, the largest that is within limits.

    Args:
        steps: How often the rate is halved in on.
        block: Of channels, of which widths are multiples.
        keep: Names of layers that stay as they are.

    Raises:
        OutOfReach: The teacher with all widths at their least is not within them.
    """
    widths = shrinkages(teacher, ("width",), block=block, keep=keep)
    rates = dict.fromkeys(widths, 1.0)
    return shrink(teacher, widest_rates(teacher, rates, is_within, steps))


def widest_rates(
    teacher: Architecture,
    rates: Mapping[Shrinkage, float],
    is_within: Callable[[Architecture], bool],
    steps: int,
    *,
    least: float = 0.0,
    most: float = 1.0,
) -> dict[Shrinkage, float]:
    """Rates that leave as much as is within limits, widths in the same proportions.

    Args:
        rates: Those of the widths are multiplied by one number, up to 1 each; others
            stay as they are.
        steps: How often that number is halved in on.
        least: It is at least this.
        most: It is at most this.

    Raises:
        OutOfReach: At the least, the student is not within them.
    """

    def scaled(factor: float) -> dict[Shrinkage, float]:
        return {
            each: min(1.0, factor * rate) if each.variable == "width" else rate
            for each, rate in rates.items()
        }

    found = None
    low, high = least, most
    for _ in range(steps):
        factor = (low + high) / 2
        wider = scaled(factor)
        if is_within(shrink(teacher, wider)):
            low, found = factor, wider
        else:
            high = factor
    if found is not None:
        return found
    thinnest = scaled(least)
    if not is_within(shrink(teacher, thinnest)):
        raise OutOfReach("no width is within the limits")
    return thinnest


def widest_in_proportion(
    start: Architecture,
    rates: Mapping[Shrinkage, float],
    is_within: Callable[[Architecture], bool],
) -> Architecture:
    """All widths times one factor: the largest with which the student is within limits.

    Every width that some factor leads to is considered, so that the next one up would
    break a limit. Where none is within them, it is the student of the least widths.

    Args:
        rates: Of all widths that are scaled, and of kernels, which stay at theirs.
        is_within: Whether limits are kept; what keeps them does so with less, too.
    """
    widths = {each: rate for each, rate in rates.items() if each.variable == "width"}
    found = (_steps(start, each, rate) for each, rate in widths.items())
    steps = sorted(set(chain.from_iterable(found)))

    def scaled(factor: float) -> Architecture:
        wider = {each: min(1.0, factor * rate) for each, rate in widths.items()}
        return shrink(start, {**rates, **wider})

    best = scaled(0.0)
    low, high = 0, len(steps)  # steps below `low` are within the limits
    while low < high:
        middle = (low + high) // 2
        student = scaled(steps[middle])
        if is_within(student):
            best, low = student, middle + 1
        else:
            high = middle
    return best


def _steps(start: Architecture, width: Shrinkage, rate: float) -> list[float]:
    """Factors of a rate from which on a width is one step wider."""
    whole = start.shape_of(width.layers[0])[0]
    count = -(-whole // width.multiple)
    each = width.multiple / (rate * whole)
    return [min((k - 0.5) * each, 1 / rate) for k in range(2, count + 1)]


def refuse_below(smallest: Architecture, num_params: int) -> None:
    """Raise OutOfReach if the smallest student has more parameters than asked for."""
    if smallest.num_params > num_params:
        raise OutOfReach(
            f"num_params={num_params} cannot be reached by narrower layers; the "
            f"smallest student, with all widths at their least, has "
            f"{smallest.num_params} parameters"
        )


def narrowest(start: Architecture, *, keep: Set[str] = frozenset()) -> Architecture:
    """With all widths and kernels at the lowest rate, but for layers of these names."""
    return shrink(start, dict.fromkeys(shrinkages(start, keep=keep), RATES[0]))


def at_full_width(student: Architecture, teacher: Architecture) -> Architecture:
    """The student's layers at the teacher's widths, for which removals are legal."""
    widths = {
        position: teacher.shape_of(teacher.positions[layer.name])[0]
        for position, layer in enumerate(student.layers)
        if isinstance(layer, PRODUCERS)
    }
    return student.shrink(widths=widths)
