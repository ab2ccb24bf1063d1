"""Recurrent policies over the rows of an observation, as in N2N learning.

They play any environment whose observation is a sequence of rows, (T, F). One that
names its columns in ``metadata["columns"]`` is read by name: a policy takes the columns
that it knows, wherever they are, and says which it misses. Without names the last three
columns are taken for ``current``, ``decided`` and ``choice``, and all before them for
descriptions of the row.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from n2n_agents.rollouts import Environment

VERSION: Final = 1  # of what columns mean and how policies are kept
# Columns that change during an episode: in the row, and the state of all of it.
IN_THE_ROW: Final = ("current", "decided", "choice")
STATE: Final = ("left", "taken_", "least_", "target_")  # names, or how they begin
IS_ROW: Final = "is_row"  # 0 in rows that only fill the observation up
# x_t = (l, k, s, p, n, s_start, s_end) of the paper.
PAPER_COLUMNS: Final = (
    *("type", "kernel", "stride", "padding", "outputs", "skip_start", "skip_end"),
)
NO_ACTION: Final = -1
FREQUENCIES: Final = 16  # of the sinusoids that tell a row's place
KINDS: Final = ("bidirectional", "autoregressive", "two-pass")


class Places(NamedTuple):
    """Where in an environment's rows a policy finds what it reads."""

    rows: list[int]  # columns that describe rows
    states: list[int]  # columns that change, as they are when a row is decided
    current: int
    is_row: int | None


class Policy(nn.Module):
    """A recurrent network that gives logits for every row.

    ``"bidirectional"`` is pi(a_t | h_{t-1}, h_{t+1}, x_t), the paper's for removal;
    ``"autoregressive"`` is pi(a_t | a_{t-1}, h_{t-1}, x_t), the paper's for shrinkage.
    ``"two-pass"`` reads all rows in both directions, then decides one after another:
    it knows what comes, and what was decided.

    Args:
        columns: Names of those that describe rows, where the environment has names.
        states: Names of those that change. They are read as they are, not standardised.
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
        states: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown policy {kind!r}; known: {', '.join(KINDS)}")
        self.kind, self.is_plain, self.columns = kind, is_plain, columns
        self.states = list(states)
        self.num_features, self.num_actions = num_features, num_actions
        self.arguments = {
            "kind": kind,
            "num_features": num_features,
            "num_actions": num_actions,
            "hidden": hidden,
            "is_plain": is_plain,
            "columns": columns,
            "states": self.states,
        }
        described = num_features + (0 if is_plain else 2 * FREQUENCIES)
        decided = num_actions + len(self.states)
        num_inputs = described
        if kind == "two-pass":
            self.context = nn.LSTM(
                described, hidden, bidirectional=True, batch_first=True
            )
            num_inputs += 2 * hidden
        if kind != "bidirectional":
            num_inputs += decided
        is_bidirectional = kind == "bidirectional"
        self.lstm = nn.LSTM(
            num_inputs,
            hidden,
            num_layers=2,
            bidirectional=is_bidirectional,
            batch_first=True,
        )
        num_read = (1 + is_bidirectional) * hidden
        self.head = nn.Linear(num_read + (not is_plain) * num_inputs, num_actions)

    def forward(
        self,
        rows: Tensor,
        actions: Tensor,
        states: Tensor | None = None,
    ) -> Tensor:
        """Logits of every row, (B, T, A).

        Args:
            rows: What describes them, (B, T, F).
            actions: Taken at each row, (B, T) int64, ``NO_ACTION`` where there was
                none. Autoregressive logits depend on those of earlier rows,
                bidirectional ones on none.
            states: What changes, in each row as it was when that was decided,
                (B, T, S); zeros in others.
        """
        inputs = [rows]
        if not self.is_plain:
            inputs = [_standardised(rows), _places(rows)]
        if self.kind == "two-pass":
            inputs.append(self.context(torch.cat(inputs, -1))[0])
        if self.kind != "bidirectional":
            before = torch.full_like(actions, NO_ACTION)
            before[:, 1:] = actions[:, :-1]
            taken = nn.functional.one_hot(before + 1, self.num_actions + 1)[..., 1:]
            inputs.append(taken.to(rows))
            if self.states:
                assert states is not None, "this policy reads the episode's state"
                inputs.append(states)
        read = torch.cat(inputs, -1)
        found = self.lstm(read)[0]
        if not self.is_plain:
            found = torch.cat([found, read], -1)
        logits: Tensor = self.head(found)
        return logits

    def places(self, env: Environment) -> Places:
        """Where this environment has what the policy reads.

        Raises:
            ValueError: It misses some columns.
        """
        names = _columns(env)
        if (self.columns is None) != (names is None):
            who = "policy" if self.columns is None else "environment"
            raise ValueError(f"the {who} has no names of columns, the other has")
        if self.columns is None or names is None:
            return Places(list(range(self.num_features)), [], -3, None)
        wanted = [*self.columns, *self.states]
        if missing := [name for name in wanted if name not in names]:
            raise ValueError(
                f"the policy reads the columns {', '.join(missing)}, which the "
                f"environment does not show"
            )
        place = {name: i for i, name in enumerate(names)}
        return Places(
            [place[name] for name in self.columns],
            [place[name] for name in self.states],
            place["current"],
            place.get(IS_ROW),
        )


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
        kind: ``"two-pass"`` by default. The paper's own is bidirectional for two
            actions (keep or remove), autoregressive for more.
        is_plain: Whether it is the paper's own, which reads the paper's columns alone.

    Raises:
        ValueError: The environment's observations are no rows, or its actions no
            choices.
    """
    num_columns, num_actions = _sizes(env)
    names = _columns(env)
    if kind is None:
        paper = "bidirectional" if num_actions == 2 else "autoregressive"
        kind = paper if is_plain or names is None else "two-pass"
    columns, states = None, []
    num_features = num_columns - len(IN_THE_ROW)
    if names is not None:
        described = [name for name in names if _describes(name)]
        columns = list(PAPER_COLUMNS) if is_plain else described
        if not is_plain and kind != "bidirectional":
            states = [name for name in names if name.startswith(STATE)]
        num_features = len(columns)
    elif is_plain:
        num_features = len(PAPER_COLUMNS)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Policy(
            kind,
            num_features,
            num_actions,
            hidden=hidden,
            is_plain=is_plain,
            columns=columns,
            states=states,
        )


def _describes(name: str) -> bool:
    """Whether a column says what a row is, whatever is decided."""
    return name not in (*IN_THE_ROW, IS_ROW) and not name.startswith(STATE)


def _sizes(env: Environment) -> tuple[int, int]:
    """Columns, and actions."""
    if isinstance(env, gym.vector.VectorEnv):
        space, actions = env.single_observation_space, env.single_action_space
    else:
        space, actions = env.observation_space, env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"observations must be rows, (T, F), got {space}")
    if not isinstance(actions, gym.spaces.Discrete):
        raise ValueError(f"actions must be Discrete, got {actions}")
    return space.shape[1], int(actions.n)


def _columns(env: Environment) -> list[str] | None:
    columns = env.metadata.get("columns")
    return None if columns is None else list(columns)


def require_fit(policy: Policy, env: Environment) -> None:
    """Raise a ValueError that says why a policy cannot play in an environment."""
    num_columns, num_actions = _sizes(env)
    if policy.num_actions != num_actions:
        raise ValueError(
            f"the policy decides between {policy.num_actions} actions, the environment "
            f"offers {num_actions}: it was made for another stage"
        )
    if policy.num_features > num_columns - len(IN_THE_ROW):
        raise ValueError(
            f"the policy reads {policy.num_features} columns, the environment shows "
            f"{num_columns - len(IN_THE_ROW)}"
        )
    policy.places(env)


# On disk.


def save_policy(policy: Policy, path: str | Path, **more: Any) -> None:
    """Write a policy's arguments and weights, nothing that could run code.

    Whatever was at the path stays whole until the new file is.

    Args:
        more: What to keep beside them: plain values and tensors.
    """
    content = {
        "version": VERSION,
        "policy": policy.arguments,
        "weights": policy.state_dict(),
        **more,
    }
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
        if "policy" in content and content.get("version") != VERSION:
            read = content["policy"].get("columns") or ["without names"]
            raise ValueError(
                f"{path} holds a policy of another contract: it reads the columns "
                f"{', '.join(read)}, which mean something else now; train it anew"
            )
        _policy_of(content)
    except (
        LookupError,
        TypeError,
        AttributeError,
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
