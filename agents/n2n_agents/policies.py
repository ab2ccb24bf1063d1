"""Recurrent policies over the rows of an observation, as in N2N learning.

They play any environment with a sequence of rows, (T, F), as its observation. If
``metadata["columns"]`` names the columns, a policy finds its columns by name, and a
missing column is an error. Without names, the last three columns are ``current``,
``decided`` and ``choice``, and all other columns describe the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from n2n_agents.proposals import WIDTH, Proposer, common_level
from n2n_agents.rollouts import Environment

# Columns that change during an episode: those of the row, and those of the episode.
IN_THE_ROW: Final = ("current", "decided", "choice")
STATE: Final = ("left", "taken_", "least_", "target_")  # names or prefixes
IS_ROW: Final = "is_row"  # 0 in padding rows
# x_t = (l, k, s, p, n, s_start, s_end) of the paper.
PAPER_COLUMNS: Final = (
    *("type", "kernel", "stride", "padding", "outputs", "skip_start", "skip_end"),
)
NO_ACTION: Final = -1
FREQUENCIES: Final = 16  # frequencies of the sinusoids of a row's position
DECIDES: Final = "decides_"  # prefix of the columns that say what a row decides
FLAGS: Final = ("is_", DECIDES, "fixed")  # columns that are 0 or 1
FRACTIONS: Final = ("taken_", "target_")  # states that a portable policy reads as logs
SMALLEST: Final = 1e-4  # smaller fractions of the teacher's resources count as this
OCTAVES: Final = 4.0  # divisor of such logarithms
LARGEST: Final = 3.0  # largest standardised value that a portable policy reads
NEAR: Final = 0.25  # standard deviation of the logarithm of a new policy's rates
KINDS: Final = ("bidirectional", "autoregressive", "two-pass")


class Columns(NamedTuple):
    """Positions, in an environment's rows, of the columns that a policy reads."""

    rows: list[int]  # columns that describe rows
    states: list[int]  # columns that change; read when a row is decided
    current: int
    is_row: int | None


class Policy(nn.Module):
    """A recurrent network that gives logits for every row.

    ``"bidirectional"`` is pi(a_t | h_{t-1}, h_{t+1}, x_t), the paper's policy for
    removal. ``"autoregressive"`` is pi(a_t | a_{t-1}, h_{t-1}, x_t), the paper's policy
    for shrinkage.
    ``"two-pass"`` first reads all rows in both directions, then decides row by row. So
    each decision knows later rows and earlier choices.

    Args:
        columns: Names of the columns that describe rows, if the environment has names.
        states: Names of the columns that change. They are not standardised.
        kinds: Names of the columns that say what a row decides. Each such column has
            its own bias for the actions, which is added to the head's output.
        is_plain: Whether rows are read unchanged, and the head reads only the LSTM's
            output, as in the paper. Otherwise each column is standardised over the
            rows, and rows get their position, because layers often differ in little
            else. The head then also reads the LSTM's inputs.
        is_portable: Whether the policy is for many networks. It then reads rows as they
            are, beside the standardised columns, and no positions: standardised rows
            alone hide sizes, and positions help to recognise a network. It reads the
            logarithms of targets, because 1/20 and 1/40 hardly differ as they are.
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
        kinds: Sequence[str] = (),
        is_portable: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown policy {kind!r}; known: {', '.join(KINDS)}")
        self.kind, self.is_plain, self.columns = kind, is_plain, columns
        self.is_portable = is_portable
        self.states, self.kinds = list(states), list(kinds)
        self.num_features, self.num_actions = num_features, num_actions
        self.arguments = {
            "kind": kind,
            "num_features": num_features,
            "num_actions": num_actions,
            "hidden": hidden,
            "is_plain": is_plain,
            "columns": columns,
            "states": self.states,
            "kinds": self.kinds,
        }
        described = num_features + (0 if is_plain else 2 * FREQUENCIES)
        if is_portable:
            assert columns is not None, "portable policies read columns by name"
            self.arguments["is_portable"] = True  # other policies have no such entry
            self._graded = [
                i for i, name in enumerate(columns) if not name.startswith(FLAGS)
            ]
            self._fractions = [name.startswith(FRACTIONS) for name in self.states]
            described = num_features + len(self._graded)
        num_inputs = described
        if kind == "two-pass":
            both = {"bidirectional": True, "batch_first": True}
            self.context = nn.LSTM(described, hidden, **both)
            num_inputs += 2 * hidden
        if kind != "bidirectional":
            num_inputs += num_actions + len(self.states)
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
        if self.kinds:
            assert columns is not None, "kinds of decisions are columns"
            self._kind_places = [columns.index(name) for name in self.kinds]
            self.bias = nn.Parameter(torch.zeros(len(self.kinds), num_actions))

    def forward(
        self,
        rows: Tensor,
        actions: Tensor,
        states: Tensor | None = None,
    ) -> Tensor:
        """Logits of every row, (B, T, A).

        Args:
            rows: The columns that describe rows, (B, T, F).
            actions: Action taken at each row, (B, T) int64, ``NO_ACTION`` in rows
                without an action. Bidirectional logits ignore actions; all other logits
                depend on the actions of earlier rows.
            states: The columns that change, at the time of each row's decision,
                (B, T, S); zeros in other rows.
        """
        read = torch.cat(
            [self.describe(rows), *self._decided(rows, actions, states)], -1
        )
        return self.decide(self.lstm(read)[0], read, rows)

    def describe(self, rows: Tensor) -> Tensor:
        """Inputs of the LSTM that depend only on the rows, (B, T, D)."""
        inputs = [rows]
        if self.is_portable:
            standardised = _standardised(rows[..., self._graded])
            inputs.append(standardised.clamp(-LARGEST, LARGEST))
        elif not self.is_plain:
            inputs = [_standardised(rows), _positions(rows)]
        if self.kind == "two-pass":
            inputs.append(self.context(torch.cat(inputs, -1))[0])
        return torch.cat(inputs, -1)

    def _decided(
        self, rows: Tensor, actions: Tensor, states: Tensor | None
    ) -> list[Tensor]:
        """Inputs of the LSTM that depend on decisions: previous actions and states."""
        if self.kind == "bidirectional":
            return []
        before = torch.full_like(actions, NO_ACTION)
        before[:, 1:] = actions[:, :-1]
        inputs = [one_hot(before, self.num_actions).to(rows)]
        if self.states:
            assert states is not None, "this policy reads the episode's state"
            inputs.append(self.read(states))
        return inputs

    def read(self, states: Tensor) -> Tensor:
        """The columns that change, as the LSTM reads them, (..., S).

        A portable policy reads fractions x of the teacher's resources as
        -log(x) / ``OCTAVES``. Rows without a decision stay 0.
        """
        if not self.is_portable:
            return states
        logs = -states.clamp_min(SMALLEST).log() / OCTAVES
        is_read = torch.tensor(self._fractions) & (states > 0)
        return torch.where(is_read, logs, states)

    def decide(self, found: Tensor, read: Tensor, rows: Tensor) -> Tensor:
        """Logits of these rows, (..., A).

        Args:
            found: Outputs of the LSTM in these rows.
            read: Inputs of the LSTM in these rows.
        """
        if not self.is_plain:
            found = torch.cat([found, read], -1)
        logits: Tensor = self.head(found)
        if self.kinds:
            logits = logits + rows[..., self._kind_places] @ self.bias
        return logits

    def columns_in(self, env: Environment) -> Columns:
        """Positions of the policy's columns in this environment.

        Raises:
            ValueError: The environment lacks some columns.
        """
        names = _columns(env)
        if (self.columns is None) != (names is None):
            who = "policy" if self.columns is None else "environment"
            raise ValueError(
                f"the {who} has no column names, and the other has; both or neither "
                f"must have them"
            )
        if self.columns is None or names is None:
            return Columns(list(range(self.num_features)), [], -3, None)
        wanted = [*self.columns, *self.states]
        if missing := [name for name in wanted if name not in names]:
            raise ValueError(
                f"the policy reads the columns {', '.join(missing)}, which the "
                f"environment does not show"
            )
        place = {name: i for i, name in enumerate(names)}
        return Columns(
            [place[name] for name in self.columns],
            [place[name] for name in self.states],
            place["current"],
            place.get(IS_ROW),
        )


def one_hot(actions: Tensor, num_actions: int) -> Tensor:
    """Actions, (...), as one-hot vectors, (..., A) int64; zeros for ``NO_ACTION``."""
    return nn.functional.one_hot(actions + 1, num_actions + 1)[..., 1:]


def _standardised(rows: Tensor) -> Tensor:
    """Each column with mean 0 and standard deviation 1 over the sequence, (B, T, F)."""
    return (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-3)


def _positions(rows: Tensor) -> Tensor:
    """Sinusoids of each row's position (Vaswani et al., 2017).

    Returns:
        (B, T, 2 * FREQUENCIES).
    """
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
    uniformity: float = 0.0,
    level: float | None = None,
    is_portable: bool = False,
    seed: int = 0,
) -> Policy:
    """A new policy that fits an environment.

    Args:
        kind: Kind of policy, from ``KINDS``. By default ``"two-pass"``. For plain
            policies and without column names, the default is the paper's kind:
            bidirectional for two actions (keep or remove), autoregressive for more.
        is_plain: Whether it is the paper's policy, which reads only the paper's
            columns.
        uniformity: Probability with which a new policy keeps a layer or a kernel; the
            rates of widths are then close to ``level``. With 0, the policy has torch's
            default initialisation. Plain policies and policies without column names
            ignore this argument.
        level: The rate that a new policy gives to widths. If all decisions are
            removals, it is an upper bound on the probability of keeping a layer. By
            default the environment's ``common_level``.
        is_portable: Whether the policy is for many networks, see `Policy`.

    Raises:
        ValueError: The environment's observations are not rows, or its actions not
            discrete.
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
    is_biased = uniformity > 0 and columns is not None and not is_plain
    kinds = [name for name in columns or () if name.startswith(DECIDES)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        policy = Policy(
            kind,
            num_features,
            num_actions,
            hidden=hidden,
            is_plain=is_plain,
            columns=columns,
            states=states,
            kinds=kinds if is_biased else (),
            is_portable=is_portable,
        )
    if is_biased:
        proposer = Proposer(env, seed=seed)
        level = common_level(proposer) if level is None else level
        # If widths are decided, small widths make the student small, not removals.
        kept = uniformity if WIDTH in proposer.kinds else min(uniformity, level)
        bias = [
            initial_bias(name, num_actions, proposer.keep, kept, level)
            for name in kinds
        ]
        policy.bias.data = torch.tensor(bias, dtype=torch.float32)
    return policy


def initial_bias(
    kind: str, num_actions: int, keep: int, kept: float, level: float
) -> list[float]:
    """Initial bias of each action for one kind of decision, (A,), up to a constant.

    The logarithm of a width's rate is normally distributed around log(level). In a
    decision of another kind, ``keep`` has the probability ``kept`` if only one other
    action is legal.
    """
    if kind == WIDTH:
        rates = [(action + 1) / num_actions for action in range(num_actions)]
        return [-(math.log(rate / level) ** 2) / (2 * NEAR**2) for rate in rates]
    odds = math.log(kept / (1 - kept))
    return [odds * (action == keep) for action in range(num_actions)]


def _describes(name: str) -> bool:
    """Whether a column describes the row and never changes."""
    return name not in (*IN_THE_ROW, IS_ROW) and not name.startswith(STATE)


def _sizes(env: Environment) -> tuple[int, int]:
    """Number of columns, and of actions."""
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
    """Raise a ValueError if a policy cannot play in an environment."""
    num_columns, num_actions = _sizes(env)
    if policy.num_actions != num_actions:
        raise ValueError(
            f"the policy has {policy.num_actions} actions and the environment "
            f"{num_actions}, so it was made for another stage"
        )
    if policy.num_features > num_columns - len(IN_THE_ROW):
        raise ValueError(
            f"the policy reads {policy.num_features} columns, but the environment has "
            f"only {num_columns - len(IN_THE_ROW)}"
        )
    policy.columns_in(env)
