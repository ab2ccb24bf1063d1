"""Policies that read observations row by row, as fast as decisions need it."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from n2n_agents.policies import NO_ACTION, Policy, one_hot

# An LSTM's memory: hidden and cell state of each layer, (N, H) each.
Memory: TypeAlias = list[tuple[Tensor, Tensor]]


class Reader:
    """A policy that reads N observations row by row, in order, each row only once.

    Args:
        rows: The columns that describe rows, (N, T, F).
    """

    def __init__(self, policy: Policy, rows: Tensor) -> None:
        self.policy, self.rows = policy, rows
        self._described = policy.describe(rows)
        self._next = 0  # the first row that is not read yet
        self._memory: Memory | None = None
        self._before = torch.full((len(rows),), NO_ACTION)
        self._all: Tensor | None = None
        if policy.kind == "bidirectional":
            none = torch.full(rows.shape[:2], NO_ACTION)
            self._all = policy(rows, none)

    def logits(self, row: int, states: Tensor) -> Tensor:
        """Logits of the actions in one row, (N, A).

        Args:
            row: Index of the row; it must be higher than in the call before.
            states: The columns that change, at the time of this decision, (N, S).

        Raises:
            ValueError: The row is not after the row of the call before.
        """
        if row < self._next:
            raise ValueError(
                f"policies decide rows in their order, but row {row} comes after row "
                f"{self._next - 1}"
            )
        first, self._next = self._next, row + 1
        if self._all is not None:
            return self._all[:, row]
        read = [self._described[:, first : row + 1]]
        before = torch.full((len(states), row + 1 - first), NO_ACTION)
        before[:, 0] = self._before
        read.append(one_hot(before, self.policy.num_actions).to(states))
        if self.policy.states:
            shown = states.new_zeros(len(states), row + 1 - first, states.shape[1])
            shown[:, -1] = states
            read.append(self.policy.read(shown))
        inputs = torch.cat(read, -1)
        found, self._memory = _read_on(self.policy.lstm, inputs, self._memory)
        # Rows between decisions have no action, whatever comes next.
        self._before = torch.full_like(self._before, NO_ACTION)
        return self.policy.decide(found, inputs[:, -1], self.rows[:, row])

    def take(self, actions: Tensor) -> None:
        """Set the actions that were taken in the row read last, (N,)."""
        self._before = actions


def _read_on(
    lstm: nn.LSTM, inputs: Tensor, memory: Memory | None
) -> tuple[Tensor, Memory]:
    """An LSTM's output in the last of some rows, (N, H), and its new memory.

    It goes from cell to cell: for a few rows, a call of the whole LSTM takes three
    times as long.

    Args:
        inputs: Inputs in the next rows, (N, K, D).
        memory: The memory after the rows before; None at the first row.
    """
    none = inputs.new_zeros(len(inputs), lstm.hidden_size)
    memory = memory or [(none, none)] * lstm.num_layers
    for row in inputs.unbind(1):
        found = row
        for layer, weights in enumerate(lstm.all_weights):
            memory[layer] = torch.lstm_cell(found, memory[layer], *weights)
            found, _ = memory[layer]
    return found, memory
