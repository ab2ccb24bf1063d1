"""Students made to fit: all widths by one factor, to what the limits allow."""

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

STEPS: Final = 8  # in which the uniform width is found
# A student that takes more than it has to keep to, but no more than so many times that,
# becomes narrower: by a factor of all its widths, halved in on in so many steps.
MOST_OVER: Final = 1.5
NARROWEST: Final = 0.6
NARROWINGS: Final = 5
# One that takes less than this share of each limit becomes wider, likewise.
ROOM: Final = 0.9
WIDEST: Final = 1.5
WIDENINGS: Final = 4


def fitted(requirements: Requirements, student: Architecture) -> Architecture:
    """The student with all widths up or down by one factor, to what limits allow.

    A search goes by what is predicted, and the best that it finds are those of which
    too little is said: most of them break a limit when they are measured. Others leave
    room, as their scores after little or no training say nothing of what a wider one
    would learn.

    Raises:
        OutOfReach: It breaks a limit by much, or still does with narrower layers.
        ResourceError: It cannot be measured.
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
    # One block of channels takes less time than a part of it does.
    in_blocks = [each for each in decisions if each.multiple % block == 0]
    rates = dict.fromkeys(in_blocks or decisions, 1.0)

    def is_within(narrower: Architecture) -> bool:
        return _is_within(requirements, narrower)

    found = widest_rates(student, rates, is_within, NARROWINGS, least=NARROWEST)
    return shrink(student, found)


def _widened(requirements: Requirements, student: Architecture) -> Architecture:
    """Up to the teacher's widths; the student itself where that is out of reach."""
    whole = at_full_width(student, requirements.teacher)
    rates = {}
    block, keep = requirements.block, requirements.keep
    for each in shrinkages(whole, ("width",), block=block, keep=keep):
        mine, most = (net.shape_of(each.layers[0])[0] for net in (student, whole))
        # Parts of blocks are filled first: they take as long as whole ones.
        rates[each] = min(1.0, ceil(mine / each.multiple) * each.multiple / most)

    def is_within(wider: Architecture) -> bool:
        return _is_within(requirements, wider)

    try:
        found = widest_rates(whole, rates, is_within, WIDENINGS, least=1.0, most=WIDEST)
    except OutOfReach:
        return student
    return shrink(whole, found)


def _is_within(requirements: Requirements, student: Architecture) -> bool:
    """Whether it keeps the limits, as far as it can be measured."""
    try:
        return requirements.keeps(student)
    except ResourceError as error:
        logger.warning("a width is left out: %s", error)
        return False


def widest_uniform(requirements: Requirements, block: int = 1) -> Architecture:
    """The teacher with all widths at one rate, the largest that keeps the limits.

    Args:
        block: Of channels, of which widths are multiples.

    Raises:
        OutOfReach: There is none.
    """
    title = "Measuring uniform width"
    with progress(STEPS, title, is_long=True, is_kept=False) as bar:

        def keeps(student: Architecture) -> bool:
            bar.update()
            return requirements.keeps(student)

        teacher, keep = requirements.teacher, requirements.keep
        return uniform_within(teacher, keeps, STEPS, block=block, keep=keep)


def aims_by(requirements: Requirements, meter: Meter) -> dict[str, float]:
    """The aims, as another meter has them around the uniform width.

    Predictions are wrong by a similar factor for similar students, so each limit is
    scaled by predicted / measured at uniform width.
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
