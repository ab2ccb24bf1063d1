"""Bayesian optimisation: a Gaussian process chooses which student to score next.

The process predicts a student's reward from the actions that lead to the student and
from the student's resources. Both are known before scoring. The process is fitted to
all students scored so far. Candidates are changed copies of the best students, and
random students. The candidate with the highest expected improvement is scored next.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from math import erf
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist

from n2n_agents import rollouts
from n2n_agents.local import fill, new_child
from n2n_agents.proposals import (
    Found,
    NothingNew,
    Proposal,
    Proposer,
    as_act,
    at_level,
    changed,
    drawing,
    first_proposals,
)

Values = NDArray[np.float64]
REFIT: Final = 1.3  # growth of scored students after which the kernel is chosen again
NEW: Final = 12  # new candidates before each choice
MOST: Final = 150  # largest number of candidates
PARENTS: Final = 5  # best students that candidates are copied from
UNRELATED: Final = 4  # every fourth candidate has no parent


# The arithmetic.


class Kernel(NamedTuple):
    """Parameters of the similarity of two students.

    Attributes:
        length: Length scale of the mean absolute distance between actions.
        scale: Length scale of the log resources, in standard deviations.
        sizes: Weight of the resources, in [0, 1]; the actions' weight is 1 - sizes.
        noise: Variance of a score, relative to the variance between students.
    """

    length: float
    scale: float
    sizes: float
    noise: float


KERNELS: Final = [
    Kernel(*each)
    for each in product((0.1, 0.25, 0.5), (0.5, 1.0, 2.0), (0.2, 0.5, 0.8), (0.01, 0.1))
]


class Students(NamedTuple):
    """Inputs of the kernel: actions in [0, 1], (N, T), and resources, (N, R)."""

    actions: Values
    sizes: Values


class Distances(NamedTuple):
    """Mean absolute distances of actions, squared distances of sizes, (N, M) each."""

    actions: Values
    sizes: Values


def distances(one: Students, other: Students) -> Distances:
    """Distances of each pair of students."""
    actions = cdist(one.actions, other.actions, "cityblock") / one.actions.shape[1]
    return Distances(actions, cdist(one.sizes, other.sizes, "sqeuclidean"))


def covariance(apart: Distances, kernel: Kernel) -> Values:
    """Covariances, (N, M): a weighted sum of a Laplacian of actions and a Gaussian."""
    by_actions = np.exp(-apart.actions / kernel.length)
    by_sizes = np.exp(-apart.sizes / (2 * kernel.scale**2))
    return np.asarray(kernel.sizes * by_sizes + (1 - kernel.sizes) * by_actions)


def log_likelihood(apart: Distances, y: Values, kernel: Kernel) -> float:
    """Log-likelihood of the rewards with the likeliest variance, up to a constant."""
    root = np.linalg.cholesky(_noisy(apart, kernel))
    variance = np.square(_solved(root, y)).mean()
    return float(-np.log(np.diag(root)).sum() - len(y) / 2 * np.log(variance + 1e-12))


def posterior(
    x: Students, y: Values, new: Students, kernel: Kernel
) -> tuple[Values, Values]:
    """Mean and standard deviation of the rewards of new students, (M,) each."""
    root = np.linalg.cholesky(_noisy(distances(x, x), kernel))
    half = _solved(root, y)
    across = _solved(root, covariance(distances(x, new), kernel))  # (N, M)
    variance = np.square(half).mean() * (1 - np.square(across).sum(0))
    return across.T @ half, np.sqrt(np.maximum(variance, 1e-12))


def _solved(root: NDArray[np.floating[Any]], right: Values) -> Values:
    """The solution z of root @ z = right; the root is lower triangular."""
    return np.asarray(solve_triangular(root, right, lower=True, check_finite=False))


def _noisy(apart: Distances, kernel: Kernel) -> Values:
    return covariance(apart, kernel) + kernel.noise * np.eye(len(apart.actions))


def expected_improvement(mean: Values, deviation: Values, best: float) -> Values:
    """E[max(0, reward - best)] for normally distributed rewards, (M,)."""
    z = (mean - best) / deviation
    below = np.array([(1 + erf(each / np.sqrt(2))) / 2 for each in z])
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.asarray((mean - best) * below + deviation * density)


# The search.


def bayesian(env: rollouts.Environment, *, seed: int) -> None:
    """Search until the environment raises an exception, or no new student is found."""
    proposer = Proposer(env, seed=seed)
    waiting = first_proposals(proposer)
    found: list[Found] = []
    pool: dict[tuple[int, ...], Proposal] = {}
    kernel, fitted = KERNELS[0], 0
    with suppress(NothingNew):
        while True:
            seen = {each.actions for each in waiting}
            near = partial(new_child, proposer, waiting[0].actions, seen)
            fill(waiting, proposer.num_rows, near)
            batch, waiting = waiting[: proposer.num_rows], waiting[proposer.num_rows :]
            found += proposer.score(batch)
            if waiting:
                continue
            _add_candidates(proposer, pool, found)
            x, y, new = _read(proposer, found, list(pool.values()))
            if len(y) >= REFIT * fitted:
                apart = distances(x, x)
                kernel = max(KERNELS, key=partial(log_likelihood, apart, y))
                fitted = len(y)
            mean, deviation = posterior(x, y, new, kernel)
            worth = expected_improvement(mean, deviation, y.max())
            order = np.argsort(-worth, kind="stable")
            ranked = [list(pool.values())[i] for i in order]
            waiting = ranked[: proposer.num_rows]
            kept = ranked[proposer.num_rows : MOST]
            pool = {each.actions: each for each in kept}


def _add_candidates(
    proposer: Proposer, pool: dict[tuple[int, ...], Proposal], found: Sequence[Found]
) -> None:
    """Add new students that keep the limits to the pool, until it has at least one.

    Raises:
        NothingNew: No student that was tried is new and keeps the limits.
    """
    seen = {each.proposal.actions for each in found}
    best = sorted(found, key=lambda each: -each.reward)[:PARENTS]
    rng = proposer.rng
    for number in range(NEW):
        if number % UNRELATED:
            parent = best[min(int(rng.geometric(0.5)), len(best)) - 1]
            wanted = changed(proposer, parent.proposal.actions)
        elif number % (2 * UNRELATED):
            wanted = drawing(proposer)
        else:
            wanted = at_level(proposer, rng.random())
        one = proposer.propose(as_act(wanted))
        if one.actions not in seen:  # fitting takes long
            one = proposer.fit(one)
        if one.actions not in seen and not one.excess:
            pool[one.actions] = one
    if not pool:
        child = new_child(proposer, best[0].proposal.actions, seen)
        pool[child.actions] = child


def _read(
    proposer: Proposer, found: Sequence[Found], pool: Sequence[Proposal]
) -> tuple[Students, Values, Students]:
    """Inputs of the scored students, their rewards, and inputs of the candidates.

    Actions are scaled to [0, 1]; log resources and rewards are standardised.
    """
    every = [each.proposal for each in found] + list(pool)
    actions = np.array([each.actions for each in every]) / (proposer.num_actions - 1)
    sizes = np.log(np.maximum([each.takes for each in every], 1e-4))
    sizes = (sizes - sizes.mean(0)) / (sizes.std(0) + 1e-6)
    rewards = np.array([each.reward for each in found])
    y = (rewards - rewards.mean()) / (rewards.std() + 1e-9)
    n = len(found)
    return Students(actions[:n], sizes[:n]), y, Students(actions[n:], sizes[n:])
