"""Predictors of a student's accuracy: an ensemble, cautious where its members disagree.

Each member is a small network with a bidirectional LSTM, which reads the rows that
``encoding`` makes of a student. Each member has its own initial weights and its own
bootstrap sample of the students.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn

from n2n_gym.common.files import write_whole
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pretraining.encoding import NUM_FEATURES, SIZES, Encoder
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher

MEMBERS: Final = 5
HIDDEN: Final = 24
EPOCHS: Final = 30
BATCH: Final = 64
RATE: Final = 3e-3  # Adam's learning rate, which falls to 0 like a cosine
CAUTION: Final = 1.0  # standard deviations subtracted from a prediction
LEAST_DEVIATION: Final = 1e-3  # smallest divisor of a column, for constant columns


@dataclass(frozen=True)
class Examples:
    """Encoded students of one teacher, with their accuracies.

    Attributes:
        rows: The students' rows, (N, T, F) float32.
        sizes: The students' sizes, (N, S) float32.
        accuracies: Accuracies relative to the teacher's, (N,) float32.
        weights: Weights of the students in a fit, (N,) float32.
    """

    rows: Tensor
    sizes: Tensor
    accuracies: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.accuracies)


class Predicted(NamedTuple):
    """Predictions of a student's accuracy, in [0, 1]."""

    cautious: float
    mean: float


# The arithmetic.


def cautious(predictions: Tensor, caution: float) -> Tensor:
    """Mean - caution * standard deviation over the M members: (M, B) -> (B,)."""
    return predictions.mean(0) - caution * predictions.std(0, correction=0)


def statistics(
    values: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, (F,) each, over all rows of arrays.

    Args:
        values: Arrays with F columns, (..., F). For constant columns, the standard
            deviation is replaced by ``LEAST_DEVIATION``.
    """
    flat = torch.cat([each.reshape(-1, each.shape[-1]) for each in values]).double()
    mean, std = flat.mean(0), flat.std(0, correction=0)
    return mean.float(), std.clamp_min(LEAST_DEVIATION).float()


class Member(nn.Module):
    """One predictor of an ensemble."""

    def __init__(self) -> None:
        super().__init__()
        for name, width in (("rows", NUM_FEATURES), ("sizes", len(SIZES))):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))
        self.inputs = nn.Linear(NUM_FEATURES, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, bidirectional=True, batch_first=True)
        self.head = nn.Linear(4 * HIDDEN + len(SIZES), HIDDEN)
        self.last = nn.Linear(HIDDEN, 1)

    def standardise(self, examples: Sequence[Examples]) -> None:
        """Standardise each input column by its mean and standard deviation in examples.

        The bias of the output is set to the mean accuracy of the examples.
        """
        for name in ("rows", "sizes"):
            mean, std = statistics([getattr(each, name) for each in examples])
            self.get_buffer(f"{name}_mean").copy_(mean)
            self.get_buffer(f"{name}_std").copy_(std)
        mean = torch.cat([each.accuracies for each in examples]).mean()
        nn.init.constant_(self.last.bias, mean.item())

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """Predicted accuracies relative to the teacher's, (B,).

        Args:
            rows: Rows of the students, (B, T, F).
            sizes: Sizes of the students, (B, S).
        """
        shown = (rows - self.get_buffer("rows_mean")) / self.get_buffer("rows_std")
        found = self.lstm(self.inputs(shown).relu())[0]  # (B, T, 2H)
        pooled = [found.mean(1), found.amax(1)]
        of = (sizes - self.get_buffer("sizes_mean")) / self.get_buffer("sizes_std")
        values: Tensor = self.last(self.head(torch.cat([*pooled, of], -1)).relu())
        return values[:, 0]


def fit_member(
    examples: Sequence[Examples],
    seed: int,
    *,
    epochs: int = EPOCHS,
    on_epoch: Callable[[], object] = lambda: None,
) -> Member:
    """Fit a predictor to a bootstrap sample of each teacher's students.

    A student is drawn for the sample with a probability proportional to its weight.

    Args:
        examples: Examples, one per teacher.
        on_epoch: Callback after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        member = Member()
    member.standardise(examples)
    chosen = [
        torch.multinomial(each.weights, len(each), True, generator=generator)
        for each in examples
    ]
    batches = [
        (k, first) for k in range(len(examples)) for first in _starts(len(examples[k]))
    ]
    optimiser = torch.optim.Adam(member.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, epochs * len(batches)
    )
    for _ in range(epochs):
        orders = [c[torch.randperm(len(c), generator=generator)] for c in chosen]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            k, first = batches[place]
            some = orders[k][first : first + BATCH]
            given = examples[k]
            found = member(given.rows[some], given.sizes[some])
            loss = nn.functional.mse_loss(found, given.accuracies[some])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        on_epoch()
    return member.eval()


def _starts(count: int) -> range:
    return range(0, count, BATCH)


def save_member(member: Member, path: Path) -> None:
    """Write a predictor to a safetensors file, completely or not at all."""
    write_whole(path, save({k: v.contiguous() for k, v in member.state_dict().items()}))


def load_member(path: Path) -> Member:
    """The predictor in a file of ``save_member``."""
    member = Member()
    member.load_state_dict(load_file(path))
    return member.eval()


@dataclass(frozen=True)
class Ensemble:
    """Several predictors, whose predictions are combined."""

    members: Sequence[Member]

    @torch.no_grad()
    def predict(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """Each member's predictions, relative to the teacher's accuracy, (M, B)."""
        return torch.stack([member(rows, sizes) for member in self.members])


@dataclass(frozen=True)
class EnsembleEvaluator:
    """An evaluator that predicts the scores of a teacher's students.

    Attributes:
        encoder: Encoder of the teacher's students.
        accuracy: The teacher's accuracy, in [0, 1].
        caution: Standard deviations subtracted from the mean prediction.
    """

    ensemble: Ensemble
    encoder: Encoder
    accuracy: float
    caution: float = CAUTION

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        return [
            Score(said.cautious, student.num_params, student.num_macs)
            for said, student in zip(self.accuracies(students), students, strict=True)
        ]

    def accuracies(self, students: Sequence[Architecture]) -> list[Predicted]:
        """Predictions of the students' accuracies."""
        rows, sizes = map(torch.from_numpy, self.encoder.batch(students))
        found = self.ensemble.predict(rows, sizes)
        both = torch.stack([cautious(found, self.caution), found.mean(0)], 1)
        within = (both * self.accuracy).clamp(0, 1).tolist()
        return [Predicted(*pair) for pair in within]

    def score_teacher(self, teacher: Teacher) -> Score:
        whole = teacher.architecture
        return Score(self.accuracy, whole.num_params, whole.num_macs)


# Quality of the predictions.


def rank_correlations(
    predicted: NDArray[np.float64],
    real: NDArray[np.float64],
    sizes: NDArray[np.float64],
) -> Mapping[str, float | None]:
    """Kendall's tau over students; each argument is (N,).

    Returns:
        ``tau``: between predicted and real accuracies of all students.
        ``tau_at_size``: between predicted and real accuracies, computed within the
        smallest, the middle and the largest third of the students, and averaged.
        ``tau_of_size``: between sizes and real accuracies of all students, for
        comparison.
        A value is None if it is undefined, for example because all accuracies are
        equal.
    """
    thirds = np.array_split(np.argsort(sizes, kind="stable"), 3)
    within = [_tau(predicted[some], real[some]) for some in thirds]
    known = [tau for tau in within if tau is not None]
    return {
        "tau": _tau(predicted, real),
        "tau_at_size": float(np.mean(known)) if known else None,
        "tau_of_size": _tau(sizes, real),
    }


def _tau(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    from scipy.stats import kendalltau

    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(kendalltau(one, other).statistic)
