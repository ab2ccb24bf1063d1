"""Training of a policy on predicted scores: REINFORCE on many teachers and targets.

An update has several groups of episodes. All episodes of a group have the same teacher
and the same target. Each reward is compared with the other rewards of its group,
because the possible rewards depend on the teacher and the target.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from n2n_agents.batched import play_batch
from n2n_agents.kept import read_content, save_policy
from n2n_agents.players import Episode
from n2n_agents.policies import NO_ACTION, Policy, make_policy
from n2n_agents.reinforce import log_probabilities, mean_entropy, reinforce_loss
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pretraining.predictor import EnsembleEvaluator
from n2n_gym.pretraining.samples import seed_of
from n2n_gym.pretraining.stages import Target, aim, draw_target, make_env, starts
from n2n_gym.pretraining.suite import Subject, Suite
from n2n_gym.teachers.teacher import Teacher

RATE: Final = 2e-3  # Adam's first learning rate
ENTROPY: Final = 0.02  # first weight of the entropy bonus
LEFT: Final = 0.1  # both fall linearly during a training, to this fraction
LARGEST_GRADIENT: Final = 1.0
# Smallest standard deviation of a group's rewards. Smaller differences are noise,
# because predictions are wrong by about as much.
LEAST_SPREAD: Final = 0.02
UNIFORMITY: Final = 0.9  # uniformity of fresh policies, see ``make_policy``
KEEP_EVERY: Final = 60.0  # seconds at least between checkpoints


# The arithmetic.


def leave_one_out(rewards: Tensor) -> Tensor:
    """Each reward minus the mean of the other ones, (m,), m > 1 (Kool et al., 2019)."""
    count = len(rewards)
    return (rewards - rewards.mean()) * count / (count - 1)


def group_advantages(rewards: Tensor) -> Tensor:
    """``leave_one_out`` divided by the standard deviation of the rewards, (m,).

    A standard deviation below ``LEAST_SPREAD`` is replaced by it.
    """
    spread = rewards.std(correction=0).clamp_min(LEAST_SPREAD)
    return leave_one_out(rewards) / spread


class Source(NamedTuple):
    """A training teacher, and the predictors that score its students."""

    subject: Subject
    teacher: Teacher
    evaluator: EnsembleEvaluator


class Arena:
    """The vector environments of a stage, each made at its first use.

    Each teacher has one vector environment. In the stage "shrink", each teacher has
    several starts, which are networks that shrinkage starts from, and one vector
    environment for each start.

    Args:
        rows: Number of rows, which are parallel episodes, in each vector environment.
    """

    def __init__(self, suite: Suite, stage: str, rows: int) -> None:
        self.suite, self.stage, self.rows = suite, stage, rows
        self._vectors: dict[tuple[str, int], CompressionVectorEnv] = {}
        self._starts: dict[str, list[Architecture]] = {}

    def vector(self, source: Source, place: int = 0) -> CompressionVectorEnv:
        """The vector environment of a teacher.

        Args:
            place: Index of the start in the list of ``stages.starts``; 0 unless the
                stage is "shrink".
        """
        key = source.subject.key
        if key not in self._starts:
            seed = seed_of(key, "starts")
            self._starts[key] = starts(source.teacher.architecture, seed)
        if (key, place) not in self._vectors:
            env = make_env(
                self.stage,
                source.teacher,
                source.evaluator,
                self.suite.resources,
                self._starts[key][place],
            )
            self._vectors[key, place] = CompressionVectorEnv(env, self.rows)
        return self._vectors[key, place]

    def play(
        self,
        source: Source,
        policy: Policy,
        target: Target,
        generator: torch.Generator | None,
        place: int = 0,
    ) -> list[Episode]:
        """Play one episode in each row of a vector environment, all for one target."""
        vector = self.vector(source, place)
        options = aim(vector.envs, target, self.suite.resources)
        return play_batch(vector, policy, generator, options)

    def num_starts(self, source: Source) -> int:
        """Number of starts of a teacher; ``place`` counts from 0 and must be lower."""
        self.vector(source)
        return len(self._starts[source.subject.key]) if self.stage == "shrink" else 1


@dataclass
class Training:
    """The training of one policy, for one stage and one seed.

    Attributes:
        rewards: Mean reward of each update's episodes.
        entropies: Mean entropy of each update's decisions, in nats.
        steps: Number of decisions that the policy has learned from.
    """

    policy: Policy
    optimiser: torch.optim.Optimizer
    rewards: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    steps: int = 0

    @property
    def num_updates(self) -> int:
        return len(self.rewards)


def fresh_policy(arena: Arena, source: Source, seed: int) -> Policy:
    """A new policy: it decides similar rates for all widths, and few removals."""
    # Removal has no widths: it starts near the whole network.
    level = 1.0 if arena.stage == "remove" else 0.5
    env = arena.vector(source).envs[0]
    return make_policy(
        env, uniformity=UNIFORMITY, level=level, is_portable=True, seed=seed
    )


def learn(
    arena: Arena,
    sources: Sequence[Source],
    policy: Policy,
    seed: int,
    checkpoint: Path,
    about: Mapping[str, Any],
    *,
    updates: int,
    on_update: Callable[[float, float], object] = lambda reward, entropy: None,
) -> Training:
    """Train a policy in place; resume from the checkpoint if there is one.

    Args:
        seed: Seed of the random draws. Each update derives its own seed from this one.
        checkpoint: Path of the checkpoint, written at the end, and before it whenever
            ``KEEP_EVERY`` seconds have passed.
        about: Description of the training. A checkpoint with another description is an
            error.
        updates: Total number of updates, including those before the checkpoint.
        on_update: Callback with the mean reward and the mean entropy of each update,
            including those of the checkpoint.

    Raises:
        ValueError: The checkpoint has another description.
    """
    training = Training(policy, torch.optim.Adam(policy.parameters(), lr=RATE))
    if checkpoint.exists():
        _restore(checkpoint, training, about)
    for made in zip(training.rewards, training.entropies, strict=True):
        on_update(*made)
    kept = time.monotonic()
    for number in range(training.num_updates, updates):
        groups = play_groups(arena, sources, policy, seed_of(seed, number))
        _update(training, groups, LEFT + (1 - LEFT) * (1 - number / updates))
        if number + 1 == updates or time.monotonic() - kept >= KEEP_EVERY:
            _keep(checkpoint, training, about)
            kept = time.monotonic()
        on_update(training.rewards[-1], training.entropies[-1])
    return training


def play_groups(
    arena: Arena, sources: Sequence[Source], policy: Policy, seed: int
) -> list[list[Episode]]:
    """Play the groups of episodes of an update, spread evenly over the teachers."""
    suite = arena.suite
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    order = rng.permutation(len(sources))
    groups = []
    for k in range(suite.groups):
        source = sources[int(order[k % len(order)])]
        target = draw_target(rng, suite.resources, *suite.targets)
        place = int(rng.integers(arena.num_starts(source)))
        groups.append(arena.play(source, policy, target, generator, place))
    return groups


def _update(
    training: Training, groups: Sequence[Sequence[Episode]], left: float
) -> None:
    """One gradient step of the policy.

    Args:
        left: Fraction of the first learning rate, and of the first weight of the
            entropy bonus.
    """
    policy, optimiser = training.policy, training.optimiser
    for settings in optimiser.param_groups:
        settings["lr"] = RATE * left
    optimiser.zero_grad()
    entropies = []
    for episodes in groups:
        actions = torch.stack([episode.actions for episode in episodes])
        is_decided = actions != NO_ACTION
        log_probs = log_probabilities(policy, episodes)
        taken = log_probs.gather(-1, actions.clamp_min(0)[..., None])[..., 0]
        taken = taken.masked_fill(~is_decided, 0.0)
        rewards = torch.tensor([episode.reward for episode in episodes])
        # Otherwise teachers with many decisions would dominate the update.
        count = is_decided.sum(1).float().mean()
        loss = reinforce_loss(taken, group_advantages(rewards))
        entropy = mean_entropy(log_probs, is_decided)
        entropies.append(entropy.item() / count.item())
        loss = loss - ENTROPY * left * entropy
        loss = loss / (count.sqrt() * len(groups))
        loss.backward()  # type: ignore[no-untyped-call]
        training.steps += int(is_decided.sum())
    torch.nn.utils.clip_grad_norm_(policy.parameters(), LARGEST_GRADIENT)
    optimiser.step()
    every = [episode.reward for episodes in groups for episode in episodes]
    training.rewards.append(sum(every) / len(every))
    training.entropies.append(sum(entropies) / len(entropies))


def _keep(path: Path, training: Training, about: Mapping[str, Any]) -> None:
    save_policy(
        training.policy,
        path,
        about=dict(about),
        optimiser=training.optimiser.state_dict(),
        rewards=training.rewards,
        entropies=training.entropies,
        steps=training.steps,
    )


def _restore(path: Path, training: Training, about: Mapping[str, Any]) -> None:
    content = read_content(path)
    kept = content.get("about", {})
    for name, value in about.items():
        if kept.get(name) != value:
            raise ValueError(
                f"{path} is of another training: its {name} is {kept.get(name)!r}, not "
                f"{value!r}"
            )
    training.policy.load_state_dict(content["weights"])
    training.optimiser.load_state_dict(content["optimiser"])
    training.rewards, training.entropies = content["rewards"], content["entropies"]
    training.steps = content["steps"]
