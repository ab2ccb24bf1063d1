"""Recurrent policies over the rows of an observation, as in N2N learning.

They play any environment whose observation is a sequence of rows, (T, F), in which the
last three columns of a row are: 1 if it is being decided now, 1 if it has been decided,
and the choice made. An environment that names its columns in ``metadata["columns"]``
cannot be taken for one whose columns mean something else.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import gymnasium as gym
import torch
from torch import Tensor, nn

from n2n_agents.rollouts import Environment

DYNAMIC: Final = 3  # columns that change during an episode; policies read the others
CURRENT: Final = -3  # the column that marks the row being decided
PAPER_COLUMNS: Final = 7  # x_t = (l, k, s, p, n, s_start, s_end) comes first
NO_ACTION: Final = -1
FREQUENCIES: Final = 16  # of the sinusoids that tell a row's place
KINDS: Final = ("bidirectional", "autoregressive")


class Policy(nn.Module):
    """A recurrent network that gives logits for every row.

    ``"bidirectional"`` is pi(a_t | h_{t-1}, h_{t+1}, x_t), the paper's for removal;
    ``"autoregressive"`` is pi(a_t | a_{t-1}, h_{t-1}, x_t), the paper's for shrinkage.

    Args:
        columns: Names of those it reads, where the environment has names.
        is_plain: It reads rows as they are, and its head the LSTM's output alone, as
            the paper's. Otherwise rows are standardised over the sequence and carry
            their place in it, since layers often differ in little else, and the head
            reads them beside the LSTM's output.
    """

    def __init__(
        self,
        kind: str,
        num_features: int,
        num_actions: int,
        *,
        hidden: int = 30,
        is_plain: bool = False,
        columns: list[str] | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown policy {kind!r}; known: {', '.join(KINDS)}")
        self.kind, self.is_plain, self.columns = kind, is_plain, columns
        self.num_features, self.num_actions = num_features, num_actions
        self.arguments = {
            "kind": kind,
            "num_features": num_features,
            "num_actions": num_actions,
            "hidden": hidden,
            "is_plain": is_plain,
            "columns": columns,
        }
        is_bidirectional = kind == "bidirectional"
        num_inputs = num_features
        if not is_plain:
            num_inputs += 2 * FREQUENCIES
        if not is_bidirectional:
            num_inputs += num_actions
        self.lstm = nn.LSTM(
            num_inputs,
            hidden,
            num_layers=2,
            bidirectional=is_bidirectional,
            batch_first=True,
        )
        num_read = (1 + is_bidirectional) * hidden
        self.head = nn.Linear(num_read + (not is_plain) * num_inputs, num_actions)

    def forward(self, rows: Tensor, actions: Tensor) -> Tensor:
        """Logits of every row, (B, T, A).

        Args:
            rows: (B, T, F'), of which it reads the first F.
            actions: Taken at each row, (B, T) int64, ``NO_ACTION`` where there was
                none. Autoregressive logits depend on those of earlier rows,
                bidirectional ones on none.
        """
        rows = rows[..., : self.num_features]
        inputs = [rows] if self.is_plain else [_standardised(rows), _places(rows)]
        if self.kind == "autoregressive":
            before = torch.full_like(actions, NO_ACTION)
            before[:, 1:] = actions[:, :-1]
            taken = nn.functional.one_hot(before + 1, self.num_actions + 1)[..., 1:]
            inputs.append(taken.to(rows))
        read = torch.cat(inputs, -1)
        found = self.lstm(read)[0]
        if not self.is_plain:
            found = torch.cat([found, read], -1)
        logits: Tensor = self.head(found)
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
    is_plain: bool = False,
    hidden: int = 30,
    seed: int = 0,
) -> Policy:
    """A fresh policy that fits an environment.

    Args:
        kind: The paper's by default: bidirectional for two actions (keep or remove),
            autoregressive for more.
        is_plain: Whether it is the paper's own, which reads the paper's columns alone.

    Raises:
        ValueError: The environment's observations are no rows, or its actions no
            choices.
    """
    num_features, num_actions = _sizes(env)
    kind = kind or ("bidirectional" if num_actions == 2 else "autoregressive")
    if is_plain:
        num_features = PAPER_COLUMNS
    columns = _columns(env)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Policy(
            kind,
            num_features,
            num_actions,
            hidden=hidden,
            is_plain=is_plain,
            columns=None if columns is None else columns[:num_features],
        )


def _sizes(env: Environment) -> tuple[int, int]:
    """Columns that a policy may read, and actions."""
    if isinstance(env, gym.vector.VectorEnv):
        space, actions = env.single_observation_space, env.single_action_space
    else:
        space, actions = env.observation_space, env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"observations must be rows, (T, F), got {space}")
    if not isinstance(actions, gym.spaces.Discrete):
        raise ValueError(f"actions must be Discrete, got {actions}")
    return space.shape[1] - DYNAMIC, int(actions.n)


def _columns(env: Environment) -> list[str] | None:
    columns = env.metadata.get("columns")
    return None if columns is None else list(columns)


def require_fit(policy: Policy, env: Environment) -> None:
    """Raise a ValueError that says why a policy cannot play in an environment."""
    num_features, num_actions = _sizes(env)
    if policy.num_actions != num_actions:
        raise ValueError(
            f"the policy decides between {policy.num_actions} actions, the environment "
            f"offers {num_actions}: it was made for another stage"
        )
    if policy.num_features > num_features:
        raise ValueError(
            f"the policy reads {policy.num_features} columns, the environment shows "
            f"{num_features}"
        )
    for mine, shown in zip(policy.columns or (), _columns(env) or (), strict=False):
        if mine != shown:
            raise ValueError(
                f"the policy was made for another version of the observations: it "
                f"reads the column {mine!r} where the environment shows {shown!r}"
            )


# On disk.


def save_policy(policy: Policy, path: str | Path, **more: Any) -> None:
    """Write a policy's arguments and weights, nothing that could run code.

    Whatever was at the path stays whole until the new file is.

    Args:
        more: What to keep beside them: plain values and tensors.
    """
    content = {"policy": policy.arguments, "weights": policy.state_dict(), **more}
    buffer = io.BytesIO()  # torch would hide what is wrong with a file
    torch.save(content, buffer)
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_content(path: str | Path) -> dict[str, Any]:
    """Everything that ``save_policy`` wrote.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        content = torch.load(path, weights_only=True)
        _policy_of(content)
    except (
        LookupError,
        TypeError,
        RuntimeError,
        UnpicklingError,
        EOFError,
    ) as error:
        raise ValueError(f"{path} does not hold a policy: {error}") from error
    found: dict[str, Any] = content
    return found


def load_policy(path: str | Path) -> Policy:
    """The policy that ``save_policy`` wrote, or that of a training's checkpoint.

    Raises:
        ValueError: The file holds something else.
    """
    return _policy_of(read_content(path))


def _policy_of(content: dict[str, Any]) -> Policy:
    policy = Policy(**content["policy"])
    policy.load_state_dict(content["weights"])
    return policy
