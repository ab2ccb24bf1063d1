"""The students that can become finalists: they keep the limits, scaled if necessary."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from n2n_gym.common.progress import progress
from n2n_gym.compression.choice import Scored
from n2n_gym.limits.feasibility import smallest
from n2n_gym.limits.fitting import fitted, widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import OutOfReach
from n2n_gym.resources import ResourceError

logger = logging.getLogger(__name__)

# With limits, this many students are measured; more only if none keeps the limits.
MEASURED: Final = 60


class Failed(ValueError):
    """No student could be distilled, or none keeps the limits."""


def within(
    requirements: Requirements,
    found: list[Scored],
    most: int,
    last: Iterable[Scored] = (),
) -> list[Scored]:
    """The first students that keep the limits, scaled where necessary.

    Args:
        most: With limits, the largest number of students.
        last: Further students, tried if none in ``found`` keeps the limits.

    Raises:
        Failed: No student keeps the limits.
    """
    if not requirements:
        return found
    kept: dict[str, Scored] = {}
    with progress(most, "Measuring finalists", is_long=True) as bar:
        for number, scored in enumerate(chain(found, last)):
            if kept and number >= min(MEASURED, len(found)):
                break
            student = scored.student
            try:
                if not scored.is_fixed:
                    student = fitted(requirements, student)
            except OutOfReach:
                continue
            except ResourceError as error:
                logger.warning("a finalist is left out: %s", error)
                continue
            kept.setdefault(student.fingerprint, scored._replace(student=student))
            bar.update(len(kept) - bar.n)
            if len(kept) == most:
                break
    if not kept:
        raise Failed(
            f"none of the {len(found)} students keeps the limits; if a search found "
            f"them, a longer search may find one that does"
        )
    return list(kept.values())


def smallest_students(
    whole: Architecture, requirements: Requirements, granularity: str
) -> Iterator[Scored]:
    """The smallest students, tried last in case no other one keeps the limits.

    Before a search, the check that the limits can be kept relies on these students.

    Args:
        whole: The teacher.
    """
    for student in smallest(whole, granularity, keep=requirements.keep):
        yield Scored(-math.inf, student)


def uniform_students(requirements: Requirements) -> list[Scored]:
    """Students of uniform width within the limits; none without limits.

    If whole blocks of channels are faster, there is also one with widths in blocks.
    """
    if not requirements:
        return []
    found = []
    for block in dict.fromkeys((1, requirements.block)):
        try:
            student = widest_uniform(requirements, block)
        except (OutOfReach, ResourceError) as error:
            logger.warning("uniform width is no finalist: %s", error)
            continue
        found.append(Scored(math.inf, student, is_fixed=True))
    return found
