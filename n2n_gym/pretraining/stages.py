"""The environments that policies are trained in: one per stage, with random targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from n2n_gym.envs import CompressEnv, CompressionEnv, RemoveEnv, ShrinkEnv
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals, without
from n2n_gym.rewards import Toward
from n2n_gym.teachers.teacher import Teacher

FITS: Final = ("compress",)  # stages whose students are scaled to their limits
STARTS: Final = 8  # networks per teacher that shrinkage starts from
REMOVED: Final = 0.4  # largest probability of each removal in such a network


class Target(NamedTuple):
    """The limit of an episode, on one resource.

    Attributes:
        resource: Name of the resource, such as ``"num_macs"``.
        share: The limit, as a fraction of the teacher's value.
    """

    resource: str
    share: float

    def bounds(
        self, teacher: Architecture, resources: Sequence[str]
    ) -> dict[str, float]:
        """Limits on all resources.

        The target's resource is limited to the target, every other resource to the
        teacher's value.
        """
        whole = {name: float(getattr(teacher, name)) for name in resources}
        return {**whole, self.resource: self.share * whole[self.resource]}


def draw_target(
    rng: np.random.Generator, resources: Sequence[str], least: float, most: float
) -> Target:
    """A random target: a resource drawn uniformly, a fraction drawn log-uniformly.

    Args:
        least, most: Smallest and largest fraction.
    """
    resource = resources[int(rng.integers(len(resources)))]
    share = math.exp(rng.uniform(math.log(least), math.log(most)))
    return Target(resource, min(max(share, least), most))


def make_env(
    stage: str,
    teacher: Teacher,
    evaluator: Evaluator,
    resources: Sequence[str],
    start: Architecture | None = None,
) -> CompressionEnv:
    """The environment of a stage, similar to those of ``n2n-gym compress``.

    In the stage "remove", observations show the target, but nothing enforces it; the
    reward grows with the fraction of the required reduction that is achieved. In
    "shrink", action masks enforce the target. In "compress", students are scaled to the
    target.

    Args:
        resources: Names of the resources that have limits.
        start: The network that shrinkage starts from, by default the teacher; used only
            in the stage "shrink".
    """
    whole = teacher.architecture
    limits: dict[str, Any] = {name: float(getattr(whole, name)) for name in resources}
    alike: dict[str, Any] = {"evaluator": evaluator, "constraints": limits}
    if stage == "remove":
        return RemoveEnv(teacher, reward=Toward(limits), epsilon=1.0, **alike)
    if stage == "shrink":
        return ShrinkEnv(teacher, start=start, reward="accuracy", strict=True, **alike)
    return CompressEnv(teacher, reward="accuracy", fit=True, **alike)


def aim(
    envs: Sequence[CompressionEnv], target: Target, resources: Sequence[str]
) -> dict[str, Any]:
    """Set the target of environments.

    Returns:
        Options for the next ``reset`` of the environments.
    """
    bounds = target.bounds(envs[0].teacher.architecture, resources)
    for env in envs:
        if isinstance(env, RemoveEnv):
            env.reward = Toward(bounds)
    return {"limits": bounds}


def starts(teacher: Architecture, seed: int) -> list[Architecture]:
    """Networks that shrinkage starts from: the teacher, also with random removals."""
    rng = np.random.default_rng(seed)
    offered = removals(teacher)
    found = [teacher]
    for _ in range(STARTS - 1):
        share = REMOVED * rng.random()
        found.append(without(teacher, [r for r in offered if rng.random() < share]))
    return found
