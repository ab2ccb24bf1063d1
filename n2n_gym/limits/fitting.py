"""Scaling of students to the limits: one factor multiplies all widths."""

from __future__ import annotations

import logging
from math import ceil
from typing import Final

from n2n_gym.common.progress import progress
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.networks.scaling import (
    OutOfReach,
    at_full_width,
    uniform_within,
    widest_rates,
)
from n2n_gym.resources import Meter, ResourceError

logger = logging.getLogger(__name__)

STEPS: Final = 8  # bisection steps for the uniform width
# A student above a limit by at most MOST_OVER becomes narrower: one factor, at least
# NARROWEST, scales all its widths. It is found by bisection in NARROWINGS steps.
MOST_OVER: Final = 1.5
NARROWEST: Final = 0.6
NARROWINGS: Final = 5
# A student below the fraction ROOM of each limit becomes wider in the same way.
ROOM: Final = 0.9
WIDEST: Final = 1.5
WIDENINGS: Final = 4


def fitted(requirements: Requirements, student: Architecture) -> Architecture:
    """The student with all widths scaled by one factor until it just keeps the limits.

    A search uses predicted resources. The students with the best rewards are often
    those whose resources are underestimated, so most of them break a limit when they
    are measured. Other students stay far below the limits, because cheap scores do not
    show the gain of more width.

    Raises:
        OutOfReach: A resource is more than ``MOST_OVER`` times its aim, or a limit is
            broken even with the factor ``NARROWEST``.
        ResourceError: The student cannot be measured.
    """
    if not requirements.bounds:
        return student
    values = requirements.meter(student, requirements.teacher)
    if not requirements.are_within(values, MOST_OVER):
        raise OutOfReach("it breaks a limit by much")
    if not requirements.are_within(values):
        return _narrowed(requirements, student)
    has_room = requirements.are_within(values, ROOM)
    return _widened(requirements, student) if has_room else student


def _narrowed(requirements: Requirements, student: Architecture) -> Architecture:
    block = requirements.block
    keep = requirements.keep
    decisions = shrinkages(student, ("width",), block=block, keep=keep)
    # A full block of channels takes less time than a part of it.
    in_blocks = [each for each in decisions if each.multiple % block == 0]
    rates = dict.fromkeys(in_blocks or decisions, 1.0)

    def is_within(narrower: Architecture) -> bool:
        return _is_within(requirements, narrower)

    found = widest_rates(student, rates, is_within, NARROWINGS, least=NARROWEST)
    return shrink(student, found)


def _widened(requirements: Requirements, student: Architecture) -> Architecture:
    """The student, widened by at most ``WIDEST`` within the limits."""
    whole = at_full_width(student, requirements.teacher)
    rates = {}
    block, keep = requirements.block, requirements.keep
    for each in shrinkages(whole, ("width",), block=block, keep=keep):
        mine, most = (net.shape_of(each.layers[0])[0] for net in (student, whole))
        # Partly filled blocks are filled first: they take as long as full ones.
        rates[each] = min(1.0, ceil(mine / each.multiple) * each.multiple / most)

    def is_within(wider: Architecture) -> bool:
        return _is_within(requirements, wider)

    try:
        found = widest_rates(whole, rates, is_within, WIDENINGS, least=1.0, most=WIDEST)
    except OutOfReach:
        return student
    return shrink(whole, found)


def _is_within(requirements: Requirements, student: Architecture) -> bool:
    """Whether a student keeps the limits; False if it cannot be measured."""
    try:
        return requirements.keeps(student)
    except ResourceError as error:
        logger.warning("a width is left out: %s", error)
        return False


def widest_uniform(requirements: Requirements, block: int = 1) -> Architecture:
    """The teacher with all widths at the largest common rate that keeps the limits.

    Args:
        block: Number of channels in a block; widths are multiples of it.

    Raises:
        OutOfReach: No rate keeps the limits.
    """
    title = "Measuring uniform width"
    with progress(STEPS, title, is_long=True, is_kept=False) as bar:

        def keeps(student: Architecture) -> bool:
            bar.update()
            return requirements.keeps(student)

        teacher, keep = requirements.teacher, requirements.keep
        return uniform_within(teacher, keeps, STEPS, block=block, keep=keep)


def aims_by(requirements: Requirements, meter: Meter) -> dict[str, float]:
    """The aims of a search that predicts resources with ``meter``.

    Predictions are wrong by a similar factor for similar students. So each aim is
    multiplied by predicted / measured of the teacher at uniform width. If this student
    cannot be measured, the aims stay unchanged.
    """
    teacher, aims = requirements.teacher, requirements.aims
    try:
        near = widest_uniform(requirements, requirements.block)
        real, said = (m(near, teacher) for m in (requirements.meter, meter))
    except (OutOfReach, ResourceError):
        return aims
    return {
        name: aim * (said[name] / real[name] if real[name] else 1)
        for name, aim in aims.items()
    }
