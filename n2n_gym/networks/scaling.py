"""Networks with all widths at one rate: the widest within limits, and the narrowest.

No function here scores students: limits are computed or measured on architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from itertools import chain
from typing import TypeVar

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Shrinkage,
    kernels_at,
    shrink,
    shrinkages,
    widths_at,
)
from n2n_gym.networks.layers import PRODUCERS
from n2n_gym.networks.tally import Costs, Counts, Tally

T = TypeVar("T")


class OutOfReach(ValueError):
    """No student of this kind is small enough."""


def uniform_student(
    teacher: Architecture, num_params: int, *, keep: Set[str] = frozenset()
) -> Architecture:
    """The teacher with all widths at the highest rate that ``num_params`` allows.

    Args:
        num_params: Upper limit on the student's parameters.
        keep: Names of layers that stay unchanged.

    Raises:
        OutOfReach: Even with all widths at their minimum, the teacher has more
            parameters.
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
    """The teacher with all widths at the highest rate that keeps the limits.

    Args:
        is_within: Function that tells whether a student keeps the limits.
        steps: Number of bisection steps for the rate.
        block: Number of channels in a block. New widths are multiples of it, except in
            layers no wider than a block.
        keep: Names of layers that stay unchanged.

    Raises:
        OutOfReach: Even with all widths at their minimum, the teacher breaks the
            limits.
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
    """The rates scaled by the largest factor for which the student keeps the limits.

    Args:
        rates: Rates before scaling. Rates of widths are multiplied by one factor, but
            do not exceed 1. Rates of kernels stay unchanged.
        is_within: Function that tells whether a student keeps the limits.
        steps: Number of bisection steps for the factor.
        least: Lower bound of the factor.
        most: Upper bound of the factor.

    Raises:
        OutOfReach: Even with the least factor, the student breaks the limits.
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
    """The student with all widths times the largest factor that keeps the limits.

    Every factor that changes a width is considered, so the next larger factor would
    break a limit. If no factor keeps the limits, the result is the narrowest student.

    Args:
        rates: Rates of the widths to scale, and rates of kernels, which stay unchanged.
        is_within: Function that tells whether a student keeps the limits. If one
            student does, all narrower ones must do so too.
    """
    widths = _widths(rates)

    def scaled(factor: float) -> Architecture:
        return shrink(start, {**rates, **_times(factor, widths)})

    return _widest(_all_steps(start, widths), scaled, is_within)


def widest_by_counts(
    start: Architecture,
    rates: Mapping[Shrinkage, float],
    is_within: Callable[[Counts], bool],
    known: Costs,
) -> Architecture:
    """The result of `widest_in_proportion`, for limits on counts alone.

    It is faster, because only the result is made as an architecture.

    Args:
        rates: Rates of widths and kernels, not of paddings.
        is_within: Function that tells whether a student with these counts keeps the
            limits.
        known: Known costs of layers, for all networks of one teacher; new costs are
            added.
    """
    widths = _widths(rates)
    layers = range(len(start.layers))
    before = Tally(start, known)
    for each, rate in rates.items():
        if each.variable == "kernel":
            before.change(each.layers, {}, kernels_at(start, each, rate))

    def scaled(factor: float) -> tuple[float, Counts]:
        tally, made = before.copy(), dict[int, int]()
        for each, rate in _times(factor, widths).items():
            made |= widths_at(start, each, rate)
        tally.change(layers, made, {})
        return factor, tally.counts

    factor, _ = _widest(
        _all_steps(start, widths), scaled, lambda found: is_within(found[1])
    )
    return shrink(start, {**rates, **_times(factor, widths)})


def _widths(rates: Mapping[Shrinkage, float]) -> dict[Shrinkage, float]:
    return {each: rate for each, rate in rates.items() if each.variable == "width"}


def _times(
    factor: float, widths: Mapping[Shrinkage, float]
) -> Mapping[Shrinkage, float]:
    return {each: min(1.0, factor * rate) for each, rate in widths.items()}


def _widest(
    steps: Sequence[float],
    scaled: Callable[[float], T],
    is_within: Callable[[T], bool],
) -> T:
    """What the largest factor makes that is within the limits; otherwise the factor 0.

    Args:
        steps: Factors to consider, ascending.
        scaled: Function that makes a student from a factor.
    """
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


def _all_steps(start: Architecture, widths: Mapping[Shrinkage, float]) -> list[float]:
    """Factors for the widths' rates, at each of which some width grows, ascending."""
    found = (_steps(start, each, rate) for each, rate in widths.items())
    return sorted(set(chain.from_iterable(found)))


def _steps(start: Architecture, width: Shrinkage, rate: float) -> list[float]:
    """Factors for the rate, at each of which the width grows by one more step."""
    whole = start.shape_of(width.layers[0])[0]
    count = -(-whole // width.multiple)
    each = width.multiple / (rate * whole)
    return [min((k - 0.5) * each, 1 / rate) for k in range(2, count + 1)]


def refuse_below(smallest: Architecture, num_params: int) -> None:
    """Raise OutOfReach if the smallest student has too many parameters."""
    if smallest.num_params > num_params:
        raise OutOfReach(
            f"num_params={num_params} cannot be reached by narrower layers; with all "
            f"widths at their minimum, the student has {smallest.num_params} parameters"
        )


def narrowest(start: Architecture, *, keep: Set[str] = frozenset()) -> Architecture:
    """The network with all widths and kernels at the lowest rate.

    Args:
        keep: Names of layers that stay unchanged.
    """
    return shrink(start, dict.fromkeys(shrinkages(start, keep=keep), RATES[0]))


def at_full_width(student: Architecture, teacher: Architecture) -> Architecture:
    """The student with all its layers at the teacher's widths."""
    widths = {
        position: teacher.shape_of(teacher.positions[layer.name])[0]
        for position, layer in enumerate(student.layers)
        if isinstance(layer, PRODUCERS)
    }
    return student.shrink(widths=widths)
