"""REINFORCE with recurrent policies, as in N2N learning (Ashok et al., ICLR 2018).

It works on any environment whose observation is a sequence of rows, (T, F), in which
the last three columns of a row are: 1 if it is being decided now, 1 if it has been
decided, and the choice made; and which tells the legal actions in
``info["action_mask"]``; and on vectors of such, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.rollouts import Environment, Observation, play_all

DYNAMIC = 3  # columns that change during an episode; the policy reads the others
CURRENT = -3  # the column that marks the row being decided
NO_ACTION = -1
FREQUENCIES = 16  # of the sinusoids that tell a row's place
KINDS = ("bidirectional", "autoregressive")


# The arithmetic.


def returns(rewards: Sequence[float]) -> float:
    """The return of an episode: what it earned, undiscounted (gamma is 1)."""
    return float(sum(rewards))


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


# The policies.


class Policy(nn.Module):
    """A recurrent network over the rows of an observation.

    ``"bidirectional"`` is pi(a_t | h_{t-1}, h_{t+1}, x_t), the paper's for removal;
    ``"autoregressive"`` is pi(a_t | a_{t-1}, h_{t-1}, x_t), the paper's for shrinkage.
    Rows are standardised over the sequence and carry their place in it, since layers
    often differ in little else; the head reads them beside the LSTM's output.
    """

    def __init__(
        self, kind: str, num_features: int, num_actions: int, hidden: int = 30
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown policy {kind!r}; known: {', '.join(KINDS)}")
        self.kind = kind
        self.num_actions = num_actions
        self.arguments = {
            "kind": kind,
            "num_features": num_features,
            "num_actions": num_actions,
            "hidden": hidden,
        }
        is_bidirectional = kind == "bidirectional"
        num_inputs = num_features + 2 * FREQUENCIES
        if not is_bidirectional:
            num_inputs += num_actions
        self.lstm = nn.LSTM(
            num_inputs,
            hidden,
            num_layers=2,
            bidirectional=is_bidirectional,
            batch_first=True,
        )
        self.head = nn.Linear((1 + is_bidirectional) * hidden + num_inputs, num_actions)

    def forward(self, rows: Tensor, actions: Tensor) -> Tensor:
        """Logits of every row, (B, T, A).

        Args:
            rows: (B, T, F).
            actions: Taken at each row, (B, T) int64, ``NO_ACTION`` where there was
                none. Autoregressive logits depend on those of earlier rows,
                bidirectional ones on none.
        """
        inputs = [_standardised(rows), _places(rows)]
        if self.kind == "autoregressive":
            before = torch.full_like(actions, NO_ACTION)
            before[:, 1:] = actions[:, :-1]
            taken = nn.functional.one_hot(before + 1, self.num_actions + 1)[..., 1:]
            inputs.append(taken.to(rows))
        read = torch.cat(inputs, -1)
        logits: Tensor = self.head(torch.cat([self.lstm(read)[0], read], -1))
        return logits


def _standardised(rows: Tensor) -> Tensor:
    """Each column with mean 0 and deviation 1 over the sequence, (B, T, F)."""
    return (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-3)


def _places(rows: Tensor) -> Tensor:
    """Sinusoids of each row's place (Vaswani et al., 2017), (B, T, 2 * FREQUENCIES)."""
    place = torch.arange(rows.shape[1], dtype=rows.dtype)[:, None]
    frequency = torch.pi * 100 ** (-torch.arange(FREQUENCIES) / FREQUENCIES)
    waves = torch.cat([(place * frequency).sin(), (place * frequency).cos()], -1)
    return 2 * waves.expand(len(rows), -1, -1)


def make_policy(
    env: Environment,
    kind: str | None = None,
    *,
    hidden: int = 30,
    seed: int = 0,
) -> Policy:
    """A fresh policy that fits an environment.

    Args:
        kind: The paper's by default: bidirectional for two actions (keep or remove),
            autoregressive for more.
    """
    if isinstance(env, gym.vector.VectorEnv):
        space, actions = env.single_observation_space, env.single_action_space
    else:
        space, actions = env.observation_space, env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"observations must be rows, (T, F), got {space}")
    if not isinstance(actions, gym.spaces.Discrete):
        raise ValueError(f"actions must be Discrete, got {actions}")
    kind = kind or ("bidirectional" if actions.n == 2 else "autoregressive")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Policy(kind, space.shape[1] - DYNAMIC, int(actions.n), hidden)


def save_policy(policy: Policy, path: str | Path) -> None:
    """Write a policy's arguments and weights, nothing that could run code."""
    torch.save({"policy": policy.arguments, "weights": policy.state_dict()}, path)


def load_policy(path: str | Path) -> Policy:
    """The policy that ``save_policy`` wrote.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        content = torch.load(path, weights_only=True)
        policy = Policy(**content["policy"])
        policy.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} does not hold a policy: {error}") from error
    return policy


# The episodes.


@dataclass(frozen=True)
class Episode:
    """One episode as a policy plays it."""

    rows: Tensor  # (T, F), what the policy reads
    actions: Tensor  # (T,) int64, NO_ACTION in rows that are not decided
    masks: Tensor  # (T, A) bool, all True in such rows
    reward: float  # the return
    info: dict[str, Any]  # the last


class _Player:
    """Plays one episode with a policy, and remembers it.

    It asks the policy for this episode alone, since a forward pass over several can
    differ in the last bits, and with them a draw.
    """

    def __init__(self, policy: Policy, generator: torch.Generator | None) -> None:
        self.policy = policy
        self.generator = generator
        self.is_begun = False

    def act(self, observation: Observation, mask: NDArray[np.int8]) -> int:
        if not self.is_begun:
            self._begin(observation)
        current = int(observation[:, CURRENT].argmax())
        if self.policy.kind == "autoregressive":
            self.logits = _logits(self.policy, self.rows, self.actions)
        is_legal = self.masks[current] = torch.from_numpy(mask.astype(bool))
        scores = self.logits[current].masked_fill(~is_legal, -torch.inf)
        if self.generator is None:
            action = int(scores.argmax())
        else:
            draw = torch.multinomial(scores.softmax(0), 1, generator=self.generator)
            action = int(draw)
        self.actions[current] = action
        return action

    def _begin(self, observation: Observation) -> None:
        self.is_begun = True
        self.rows = torch.from_numpy(observation[:, :-DYNAMIC].copy())
        self.actions = torch.full((len(self.rows),), NO_ACTION)
        shape = len(self.rows), self.policy.num_actions
        self.masks = torch.ones(shape, dtype=torch.bool)
        self.logits = _logits(self.policy, self.rows, self.actions)

    def episode(self, rewards: Sequence[float], info: dict[str, Any]) -> Episode:
        return Episode(self.rows, self.actions, self.masks, returns(rewards), info)


def play(
    env: gym.Env[Observation, Any],
    policy: Policy,
    generator: torch.Generator | None = None,
) -> Episode:
    """Play one episode: sampled from the policy, or its likeliest actions.

    Args:
        generator: Samples; None for the likeliest action at every step.
    """
    (episode,) = _play(env, [_Player(policy, generator)])
    return episode


def _play(env: Environment, players: Sequence[_Player]) -> Iterator[Episode]:
    played = play_all(env, [player.act for player in players])
    for player, (rewards, info) in zip(players, played, strict=True):
        yield player.episode(rewards, info)


def _generator(seed: int, episode: int) -> torch.Generator:
    """An episode's own, so that it does not matter which are played before it."""
    (state,) = np.random.SeedSequence([seed, episode]).generate_state(1)
    return torch.Generator().manual_seed(int(state))


@torch.no_grad()
def _logits(policy: Policy, rows: Tensor, actions: Tensor) -> Tensor:
    """Of one episode's rows, (T, A)."""
    logits: Tensor = policy(rows[None], actions[None])[0]
    return logits


def log_probabilities(policy: Policy, episodes: Sequence[Episode]) -> Tensor:
    """log pi(a) of all actions in all rows, (m, T, A); -inf where illegal."""
    actions = torch.stack([episode.actions for episode in episodes])
    masks = torch.stack([episode.masks for episode in episodes])
    rows = torch.stack([episode.rows for episode in episodes])
    logits: Tensor = policy(rows, actions)
    return logits.masked_fill(~masks, -torch.inf).log_softmax(-1)


def train(
    env: Environment,
    policy: Policy,
    *,
    updates: int = 100,
    rollouts: int = 5,
    learning_rate: float = 1e-2,
    baseline_decay: float = 0.9,
    entropy_bonus: float = 0.1,
    is_scaled: bool = True,
    seed: int = 0,
    on_episode: Callable[[Episode], None] | None = None,
) -> None:
    """Improve a policy in place.

    The paper's own settings are ``learning_rate=3e-3, entropy_bonus=0,
    is_scaled=False``; the defaults find better students in as many episodes.

    Args:
        env: An environment, or a vector of such, in which the rollouts are played
            together; the result is the same.
        rollouts: Episodes an update, all of the same policy; a multiple of a vector's
            rows.
        baseline_decay: Of the moving average of earlier rewards; before the first
            update it is the mean of the first rollouts.
        entropy_bonus: Weight of the policy's entropy, against settling too early.
        is_scaled: Whether advantages are divided by the root of the moving average of
            their squares, so that a step does not shrink as rewards draw together.
        on_episode: Called after each episode.
    """
    optimiser = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    baseline: float | None = None
    square: float | None = None
    for update in range(updates):
        numbers = range(update * rollouts, (update + 1) * rollouts)
        players = [_Player(policy, _generator(seed, number)) for number in numbers]
        episodes = []
        for episode in _play(env, players):
            episodes.append(episode)
            if on_episode is not None:
                on_episode(episode)
        earned = [episode.reward for episode in episodes]
        if baseline is None:
            baseline = sum(earned) / rollouts
        spread = sum((reward - baseline) ** 2 for reward in earned) / rollouts
        square = moving_average(square, [spread], baseline_decay)
        scale = math.sqrt(square) + 1e-4 if is_scaled else 1.0

        log_probs = log_probabilities(policy, episodes)
        actions = torch.stack([episode.actions for episode in episodes])
        is_decided = actions != NO_ACTION
        taken = log_probs.gather(-1, actions.clamp_min(0)[..., None])[..., 0]
        taken = taken.masked_fill(~is_decided, 0.0)
        loss = reinforce_loss(taken, advantages(earned, baseline, scale))
        loss = loss - entropy_bonus * mean_entropy(log_probs, is_decided)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        baseline = moving_average(baseline, earned, baseline_decay)
