"""REINFORCE with recurrent policies, as in N2N learning (Ashok et al., ICLR 2018).

It works on any environment that ``n2n_agents.policies`` can play and which tells the
legal actions in ``info["action_mask"]``; and on vectors of such, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from n2n_agents.players import Episode, Player, generator_of, play, play_players
from n2n_agents.policies import (
    NO_ACTION,
    Policy,
    load_policy,
    make_policy,
    read_content,
    require_fit,
    save_policy,
)
from n2n_agents.rollouts import Environment

__all__ = [
    "FROZEN",
    "MODERN",
    "PAPER",
    "Episode",
    "Hyperparameters",
    "Update",
    "load_policy",
    "make_policy",
    "play",
    "save_policy",
    "train",
]


# The arithmetic.


def moving_average(
    average: float | None, values: Sequence[float], decay: float
) -> float:
    """An exponential moving average after further values; None before the first."""
    for value in values:
        average = value if average is None else decay * average + (1 - decay) * value
    assert average is not None, "a moving average needs a value"
    return average


def advantages(returns: Sequence[float], baseline: float, scale: float) -> Tensor:
    """(R_k - b) / scale of each rollout, (m,); the paper has no scale."""
    return (torch.tensor(returns) - baseline) / scale


def reinforce_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-(1/m) sum_k A_k sum_t log pi(a_t), whose gradient REINFORCE descends.

    Args:
        log_probs: Of the actions taken, (m, T); 0 where there was none.
        advantages: Of each rollout, (m,).
    """
    return -(log_probs.sum(1) * advantages).mean()


def mean_entropy(log_probs: Tensor, is_decided: Tensor) -> Tensor:
    """Entropy of the policy, summed over the rows decided, averaged over rollouts.

    Args:
        log_probs: Of all actions, (m, T, A), -inf where illegal.
        is_decided: (m, T) bool.
    """
    probs = log_probs.exp()
    each = -(probs * log_probs.masked_fill(probs == 0, 0)).sum(-1)
    return (each * is_decided).sum(1).mean()


def log_probabilities(policy: Policy, episodes: Sequence[Episode]) -> Tensor:
    """log pi(a) of all actions in all rows, (m, T, A); -inf where illegal."""
    actions = torch.stack([episode.actions for episode in episodes])
    masks = torch.stack([episode.masks for episode in episodes])
    rows = torch.stack([episode.rows for episode in episodes])
    states = torch.stack([episode.states for episode in episodes])
    logits: Tensor = policy(rows, actions, states)
    return logits.masked_fill(~masks, -torch.inf).log_softmax(-1)


# The training.


@dataclass(frozen=True)
class Hyperparameters:
    """How a policy learns; the paper's by default.

    Attributes:
        rollouts: Episodes an update, all of the same policy.
        learning_rate: Adam's. The paper's code has 0.1 for shrinkage, with which
            nothing is learned; this serves both.
        baseline_decay: Of the moving average of earlier rewards; before the first
            update it is the mean of the first rollouts.
        entropy_bonus: Weight of the policy's entropy, against settling too early.
        is_scaled: Whether advantages are divided by the root of the moving average of
            their squares, so that a step does not shrink as rewards draw together.
    """

    rollouts: int = 5
    learning_rate: float = 3e-3
    baseline_decay: float = 0.9
    entropy_bonus: float = 0.0
    is_scaled: bool = False


PAPER: Final = Hyperparameters()
# Finds better students in as many episodes.
MODERN: Final = Hyperparameters(learning_rate=5e-3, entropy_bonus=0.1, is_scaled=True)
# Plays as it is: a policy that was trained elsewhere, used without training.
FROZEN: Final = replace(MODERN, learning_rate=0.0)


class Update(NamedTuple):
    """What one update of the policy was made from."""

    number: int  # from 1
    mean_reward: float
    best_reward: float  # of its rollouts
    baseline: float  # that the rewards were compared with
    loss: float
    entropy: float  # nats an episode
    gradient: float  # norm


@dataclass
class _Progress:
    """All that a training goes on from, beside the policy."""

    optimiser: torch.optim.Adam
    baseline: float | None = None  # moving average of rewards
    square: float | None = None  # moving average of their squared distances from it
    updates: list[Update] | None = None


def train(
    env: Environment,
    policy: Policy,
    settings: Hyperparameters = PAPER,
    *,
    updates: int = 100,
    seed: int = 0,
    subject: str = "",
    checkpoint: str | Path | None = None,
    on_episode: Callable[[Episode], None] | None = None,
    on_update: Callable[[Update], None] | None = None,
) -> list[Update]:
    """Improve a policy in place.

    Args:
        env: An environment, or a vector of such, in which the rollouts are played
            together; the result is the same. Rollouts must be a multiple of its rows.
        seed: Of the episodes: each has a generator of its own, from this and its
            number.
        subject: What the environment is, in words or as JSON: a checkpoint of another
            is refused.
        checkpoint: Where all of the training is kept after each update. Where there is
            such a file of this training already, it goes on as if it had never stopped.
        on_episode: Called after each episode that is played.
        on_update: Called after each update; first with those of the checkpoint.

    Returns:
        All updates, those of the checkpoint included.

    Raises:
        ValueError: The policy does not fit the environment, or the checkpoint is of
            another training.
    """
    require_fit(policy, env)
    places = policy.places(env)
    progress = _Progress(
        torch.optim.Adam(policy.parameters(), lr=settings.learning_rate), updates=[]
    )
    about = {"settings": asdict(settings), "seed": seed, "subject": subject}
    if checkpoint is not None and Path(checkpoint).exists():
        _restore(Path(checkpoint), policy, progress, about)
    assert progress.updates is not None
    for done in progress.updates:
        if on_update is not None:
            on_update(done)
    for number in range(len(progress.updates), updates):
        episodes = []
        numbers = range(number * settings.rollouts, (number + 1) * settings.rollouts)
        players = [Player(policy, places, generator_of(seed, k)) for k in numbers]
        for episode in play_players(env, players):
            episodes.append(episode)
            if on_episode is not None:
                on_episode(episode)
        _learn(policy, settings, progress, episodes)
        if checkpoint is not None:
            _save(Path(checkpoint), policy, progress, about)
        if on_update is not None:
            on_update(progress.updates[-1])
    return progress.updates


def _learn(
    policy: Policy,
    settings: Hyperparameters,
    progress: _Progress,
    episodes: Sequence[Episode],
) -> None:
    """One update from the rollouts of one policy."""
    earned = [episode.reward for episode in episodes]
    decay = settings.baseline_decay
    baseline = progress.baseline
    if baseline is None:
        baseline = sum(earned) / len(earned)
    spread = sum((reward - baseline) ** 2 for reward in earned) / len(earned)
    progress.square = moving_average(progress.square, [spread], decay)
    scale = math.sqrt(progress.square) + 1e-4 if settings.is_scaled else 1.0

    log_probs = log_probabilities(policy, episodes)
    actions = torch.stack([episode.actions for episode in episodes])
    is_decided = actions != NO_ACTION
    taken = log_probs.gather(-1, actions.clamp_min(0)[..., None])[..., 0]
    taken = taken.masked_fill(~is_decided, 0.0)
    entropy = mean_entropy(log_probs, is_decided)
    loss = reinforce_loss(taken, advantages(earned, baseline, scale))
    loss = loss - settings.entropy_bonus * entropy
    progress.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = torch.nn.utils.get_total_norm(
        [p.grad for p in policy.parameters() if p.grad is not None]
    )
    progress.optimiser.step()
    progress.baseline = moving_average(baseline, earned, decay)
    assert progress.updates is not None
    progress.updates.append(
        Update(
            len(progress.updates) + 1,
            sum(earned) / len(earned),
            max(earned),
            baseline,
            loss.item(),
            entropy.item(),
            gradient.item(),
        )
    )


def _save(
    path: Path, policy: Policy, progress: _Progress, about: dict[str, Any]
) -> None:
    # The episodes' generators need no state: each is made from the seed and a number.
    save_policy(
        policy,
        path,
        about=about,
        optimiser=progress.optimiser.state_dict(),
        baseline=progress.baseline,
        square=progress.square,
        updates=[list(update) for update in progress.updates or ()],
    )


def _restore(
    path: Path, policy: Policy, progress: _Progress, about: dict[str, Any]
) -> None:
    content = read_content(path)
    if "optimiser" not in content:
        raise ValueError(f"{path} holds a policy, but no training to go on with")
    kept = {"policy": content["policy"], **content["about"]}
    wanted = {"policy": policy.arguments, **about}
    for name, value in wanted.items():
        if kept.get(name) != value:
            raise ValueError(
                f"{path} is of another training: its {name} is {kept.get(name)}, not "
                f"{value}"
            )
    policy.load_state_dict(content["weights"])
    progress.optimiser.load_state_dict(content["optimiser"])
    progress.baseline = content["baseline"]
    progress.square = content["square"]
    progress.updates = [Update(*update) for update in content["updates"]]
