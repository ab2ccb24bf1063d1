"""A policy's decisions about a teacher, and the columns that they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n_agents.batched import play_batch
from n2n_agents.kept import load_trained
from n2n_agents.players import Episode
from n2n_agents.policies import DECIDES, IN_THE_ROW, Policy
from n2n_agents.reinforce import log_probabilities
from n2n_agents.rules import REMOVAL, kind_of
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.envs.columns import COLUMNS, PLACE
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pretraining.samples import seed_of
from n2n_gym.pretraining.stages import Target, aim, make_env
from n2n_gym.teachers.teacher import Teacher

STAGE: Final = "compress"
# Columns that are permuted together, by prefix; all others are permuted alone.
TOGETHER: Final = (DECIDES, "is_", "taken_", "least_", "target_")
# Columns that change during an episode, by prefix.
CHANGING: Final = (*IN_THE_ROW, "left", "taken_", "least_")
WHOLE_ROW: Final = "all that describes a row"
REPEATS: Final = 2  # permutations of each column

Values = NDArray[np.float64]


class Played(NamedTuple):
    """The episodes of a policy with one teacher at one target.

    Attributes:
        share: The target, as a fraction of the teacher's value.
        observation: The first observation, (T, F).
        episodes: The episodes.
        students: The student of each episode.
    """

    share: float
    observation: NDArray[np.float32]
    episodes: list[Episode]
    students: list[Architecture]


class Table:
    """A vector environment of one teacher, in which policies play without scores.

    Args:
        resources: Resources that can have limits; targets limit the first.
        rows: Number of episodes per target.
    """

    def __init__(self, teacher: Teacher, resources: Sequence[str], rows: int) -> None:
        env = make_env(STAGE, teacher, load_evaluator("size"), resources)
        self.resources = resources
        self.vector = CompressionVectorEnv(env, rows)

    def load(self, path: Path) -> Policy:
        """A policy from a file.

        Raises:
            ValueError: The policy is for another stage or for other columns.
        """
        return load_trained(path, self.vector)

    def play(
        self, policy: Policy, targets: Sequence[float], seed: int
    ) -> Iterator[Played]:
        """The policy's episodes at each target, with sampled actions."""
        for share in targets:
            target = Target(self.resources[0], share)
            options = aim(self.vector.envs, target, self.resources)
            observations, _ = self.vector.reset(options=options)
            generator = torch.Generator().manual_seed(seed_of(seed, share))
            episodes = play_batch(self.vector, policy, generator, options)
            students = [env.student for env in self.vector.envs]
            yield Played(share, observations[0], episodes, students)


# The decisions.


def decisions_of(policy: Policy, played: Sequence[Played]) -> list[dict[str, Any]]:
    """The policy's mean decisions at each target; they can be written as JSON.

    Probabilities are means over the episodes in which more than one action was legal.
    A decision has the following values:

    - ``kind``: ``"removal"``, ``"width"`` or ``"kernel"``;
    - ``kept``: probability of keeping, or mean rate;
    - ``whole``: probability that the decision changes nothing;
    - ``relative``: a width's mean rate / the mean rate of all widths;
    - ``map``: place among the layers of equal map size, see ``places_on_maps``;
    - ``row``: the row's values that are not 0, without those that change in an episode.
    """
    found = []
    for share, observation, episodes, _ in played:
        with torch.no_grad():
            logs = log_probabilities(policy, episodes)
        masks = torch.stack([episode.masks for episode in episodes])
        actions = episodes[0].actions
        is_open = (masks.sum(-1) > 1) & (actions >= 0)  # (m, T)
        probabilities = _mean_where(logs.exp(), is_open).numpy()  # (T, A)
        maps = places_on_maps(observation[: len(actions)])
        here = []
        for row in torch.nonzero(is_open.any(0))[:, 0].tolist():
            values = dict(zip(COLUMNS, observation[row].tolist(), strict=True))
            kind = kind_of(values)
            each = probabilities[row].astype(float)
            whole = each[-1]
            rate = float(each @ np.arange(1, len(each) + 1) / len(each))
            here.append(
                {
                    "target": share,
                    "kind": kind,
                    "kept": float(whole) if kind == REMOVAL else rate,
                    "whole": float(whole),
                    "map": maps[row],
                    "row": {
                        name: round(value, 5)
                        for name, value in values.items()
                        if value and not name.startswith(CHANGING)
                    },
                }
            )
        rates = [one["kept"] for one in here if one["kind"] == "width"]
        for one in here:
            if one["kind"] == "width":
                one["relative"] = one["kept"] / float(np.mean(rates))
        found += here
    return found


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Means over the chosen episodes; 0 in rows without any.

    Args:
        values: (m, T, A).
        chosen: (m, T) bool.
    """
    weights = chosen[..., None].to(values)
    return (values * weights).sum(0) / weights.sum(0).clamp_min(1)


def places_on_maps(observation: NDArray[np.float32]) -> list[str]:
    """The place of each row among the layers of equal map size, (T,).

    A row is ``"first"`` if the layer above it has another map size, ``"last"`` if the
    layer below it has, ``"only"`` if both have, and ``"middle"`` otherwise. Rows
    without a map are ``"no map"``. The network's ends count as other sizes.
    """
    depth, size = observation[:, PLACE["depth"]], observation[:, PLACE["size"]]
    sizes = {float(d): float(s) for d, s in zip(depth, size, strict=True) if s}
    depths = sorted(sizes)
    ends = {
        here: (sizes.get(above) != sizes[here], sizes.get(below) != sizes[here])
        for above, here, below in zip(
            [-1.0, *depths], depths, [*depths[1:], -1.0], strict=False
        )
    }
    named = {
        (True, True): "only",
        (True, False): "first",
        (False, True): "last",
        (False, False): "middle",
    }
    return [
        named[ends[float(d)]] if s else "no map"
        for d, s in zip(depth, size, strict=True)
    ]


# The columns.


def groups_of(policy: Policy) -> dict[str, list[str]]:
    """The policy's columns that are permuted together, by the name of the group."""
    names = [*(policy.columns or ()), *policy.states]
    found: dict[str, list[str]] = {}
    for name in names:
        # ``type`` says the same as the columns of kinds.
        prefix = next((p for p in TOGETHER if name.startswith(p)), "")
        prefix = "is_" if name == "type" else prefix
        found.setdefault(f"{prefix}*" if prefix else name, []).append(name)
    found[WHOLE_ROW] = list(policy.columns or ())
    return found


def importance(
    policy: Policy, episodes: Sequence[Episode], seed: int
) -> dict[str, float]:
    """How much the policy's probabilities change if a column is permuted, in nats.

    It is the mean Kullback-Leibler divergence from the probabilities before to those
    after the permutation, over all decisions with more than one legal action. Actions
    and masks stay the same.

    Args:
        episodes: Episodes with one teacher, at several targets.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = log_probabilities(policy, episodes)
    masks = torch.stack([episode.masks for episode in episodes])
    actions = torch.stack([episode.actions for episode in episodes])
    is_open = (masks.sum(-1) > 1) & (actions >= 0)
    found = {}
    for group, names in groups_of(policy).items():
        each = []
        for _ in range(REPEATS):
            changed = permuted(policy, episodes, names, generator)
            if changed is None:
                each.append(0.0)
                continue
            with torch.no_grad():
                after = log_probabilities(policy, changed)
            each.append(float(divergence(before, after)[is_open].mean()))
        found[group] = float(np.mean(each))
    return found


def divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(before || after) of log-probabilities, (..., A) -> (...), in nats."""
    gaps = (before - after).masked_fill(before == -torch.inf, 0.0)
    return (before.exp() * gaps).sum(-1)


def permuted(
    policy: Policy,
    episodes: Sequence[Episode],
    names: Sequence[str],
    generator: torch.Generator,
) -> list[Episode] | None:
    """Episodes with the values of some columns permuted; None if nothing changes.

    Columns that describe rows are permuted among the rows with the same kind of
    decision, alike in all episodes; the columns that say the kind, among all rows.
    Columns that are constant in each episode are permuted among the episodes. All other
    columns are permuted among all decisions.
    """
    described = [i for i, n in enumerate(policy.columns or ()) if n in names]
    changing = [i for i, n in enumerate(policy.states) if n in names]
    rows = torch.stack([episode.rows for episode in episodes])  # (m, T, F)
    states = torch.stack([episode.states for episode in episodes])  # (m, T, S)
    actions = torch.stack([episode.actions for episode in episodes])
    new_rows, new_states = rows.clone(), states.clone()
    if described:
        kinds = [i for i, n in enumerate(policy.columns or ()) if n.startswith(DECIDES)]
        classes = rows[0][:, kinds] @ torch.arange(1.0, len(kinds) + 1)  # (T,)
        if set(described) <= set(kinds):
            classes = torch.zeros_like(classes)
        order = _within(classes, generator)
        new_rows[..., described] = rows[:, order][..., described]
    if changing:
        is_decided = actions >= 0  # (m, T)
        values = states[is_decided][:, changing]  # (D, S)
        of_episode = values.view(len(episodes), -1, len(changing))
        if (of_episode == of_episode[:, :1]).all():
            order = torch.randperm(len(episodes), generator=generator)
            values = of_episode[order].flatten(0, 1)
        else:
            values = values[torch.randperm(len(values), generator=generator)]
        shown = new_states[is_decided]
        shown[:, changing] = values
        new_states[is_decided] = shown
    if new_rows.equal(rows) and new_states.equal(states):
        return None
    return [
        replace(episode, rows=new_rows[i], states=new_states[i])
        for i, episode in enumerate(episodes)
    ]


def _within(classes: Tensor, generator: torch.Generator) -> Tensor:
    """A random permutation of positions, (T,), among those of equal class."""
    order = torch.arange(len(classes))
    for each in classes.unique():
        (mine,) = torch.nonzero(classes == each, as_tuple=True)
        order[mine] = mine[torch.randperm(len(mine), generator=generator)]
    return order


def examine(
    table: Table, policy: Policy, targets: Sequence[float], seed: int
) -> Mapping[str, Any]:
    """A policy's decisions about a teacher, and the importance of each column."""
    played = list(table.play(policy, targets, seed))
    episodes = [episode for one in played for episode in one.episodes]
    return {
        "decisions": decisions_of(policy, played),
        "columns": importance(policy, episodes, seed),
    }
