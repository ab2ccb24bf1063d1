"""REINFORCE with recurrent policies, as in N2N learning (Ashok et al., ICLR 2018).

It works on any environment that ``n2n_agents.policies`` can play and that has legal
actions in ``info["action_mask"]``. A vector of such environments gives the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from n2n_agents.kept import load_policy, read_content, save_policy
from n2n_agents.players import Episode, Player, generator_of, play, play_players
from n2n_agents.policies import NO_ACTION, Policy, make_policy, require_fit
from n2n_agents.rollouts import Environment

__all__ = [
    "FROZEN",
    "MODERN",
    "PAPER",
    "Episode",
    "Hyperparameters",
    "Policy",
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
    """An exponential moving average after these values.

    Args:
        average: The average before these values; None if they are the first.
    """
    for value in values:
        average = value if average is None else decay * average + (1 - decay) * value
    assert average is not None, "a moving average needs a value"
    return average


def advantages(returns: Sequence[float], baseline: float, scale: float) -> Tensor:
    """(R_k - b) / scale of each rollout, (m,); in the paper the scale is 1."""
    return (torch.tensor(returns) - baseline) / scale


def reinforce_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-(1/m) sum_k A_k sum_t log pi(a_t); its negative gradient is REINFORCE's update.

    Args:
        log_probs: Log-probabilities of the actions taken, (m, T); 0 in rows without an
            action.
        advantages: Advantage of each rollout, (m,).
    """
    return -(log_probs.sum(1) * advantages).mean()


def mean_entropy(log_probs: Tensor, is_decided: Tensor) -> Tensor:
    """Entropy of the policy, summed over the rows decided, averaged over rollouts.

    Args:
        log_probs: Log-probabilities of all actions, (m, T, A), -inf where illegal.
        is_decided: Mask of the rows with a decision, (m, T) bool.
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
    """The settings of a training; by default the paper's.

    Attributes:
        rollouts: Number of episodes per update, all with the same policy.
        learning_rate: Adam's learning rate. The paper's code has 0.1 for shrinkage,
            which learns nothing; this value serves both stages. With 0 the policy plays
            without training, and its first episode takes the most probable actions.
        baseline_decay: Decay of the moving average of earlier rewards. Before the first
            update, the baseline is the mean of the first rollouts.
        entropy_bonus: Weight of the policy's entropy, against early convergence.
        is_scaled: Whether advantages are divided by the root of the moving average of
            their squares. Then steps do not shrink as rewards become similar.
        uniformity: How close a new policy is to one rate for all widths and no
            removals: see ``make_policy``. The paper's policy starts with the default
            initialisation of its layers.
    """

    rollouts: int = 5
    learning_rate: float = 3e-3
    baseline_decay: float = 0.9
    entropy_bonus: float = 0.0
    is_scaled: bool = False
    uniformity: float = 0.0


PAPER: Final = Hyperparameters()
# Finds better students than the paper's settings in as many episodes.
MODERN: Final = Hyperparameters(
    learning_rate=5e-3, entropy_bonus=0.1, is_scaled=True, uniformity=0.9
)
# For a policy that was trained elsewhere: it plays without further training. Its first
# episode takes the most probable actions.
FROZEN: Final = replace(MODERN, learning_rate=0.0)


class Update(NamedTuple):
    """The data of one update of the policy."""

    number: int  # from 1
    mean_reward: float
    best_reward: float  # best reward of its rollouts
    baseline: float  # baseline of the rewards
    loss: float
    entropy: float  # nats an episode
    gradient: float  # norm of the gradient; 0 without training


@dataclass
class _Progress:
    """The state of a training, besides the policy."""

    optimiser: torch.optim.Adam
    baseline: float | None = None  # moving average of rewards
    square: float | None = None  # moving average of squared distances from it
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
        env: An environment, or a vector of environments that plays the rollouts
            together, with the same result. The number of rollouts must be a multiple of
            the number of rows.
        policy: The policy to improve.
        settings: The settings of the training.
        updates: Total number of updates.
        seed: Seed of the episodes. Each episode's generator is made from the seed and
            the episode's number.
        subject: Description of the environment, in words or as JSON. A checkpoint with
            another subject is refused.
        checkpoint: File of the training, written after each update. If the file exists,
            the training resumes from it, with the same results as without a break.
        on_episode: Callback after each episode.
        on_update: Callback after each update. At the start, it gets the updates of the
            checkpoint.

    Returns:
        All updates, including those of the checkpoint.

    Raises:
        ValueError: The policy does not fit the environment, or the checkpoint is of
            another training.
    """
    require_fit(policy, env)
    columns = policy.columns_in(env)
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
        likeliest = 0 if settings.learning_rate == 0 else None
        drawn = [None if k == likeliest else generator_of(seed, k) for k in numbers]
        players = [Player(policy, columns, each) for each in drawn]
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
    """One update of the policy from its rollouts."""
    earned = [episode.reward for episode in episodes]
    decay = settings.baseline_decay
    baseline = progress.baseline
    if baseline is None:
        baseline = sum(earned) / len(earned)
    spread = sum((reward - baseline) ** 2 for reward in earned) / len(earned)
    progress.square = moving_average(progress.square, [spread], decay)
    scale = math.sqrt(progress.square) + 1e-4 if settings.is_scaled else 1.0

    with torch.set_grad_enabled(settings.learning_rate > 0):
        log_probs = log_probabilities(policy, episodes)
    actions = torch.stack([episode.actions for episode in episodes])
    is_decided = actions != NO_ACTION
    taken = log_probs.gather(-1, actions.clamp_min(0)[..., None])[..., 0]
    taken = taken.masked_fill(~is_decided, 0.0)
    entropy = mean_entropy(log_probs, is_decided)
    loss = reinforce_loss(taken, advantages(earned, baseline, scale))
    loss = loss - settings.entropy_bonus * entropy
    gradient = torch.zeros(())
    if settings.learning_rate:
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
    # The episodes' generators have no state: each is made from the seed and a number.
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
        raise ValueError(f"{path} holds a policy, but no training that can be resumed")
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
