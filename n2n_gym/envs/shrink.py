"""Stage two: the agent decides how far to shrink the remaining layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Unpack

from n2n_gym.envs.arguments import Arguments
from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.episode import UNCHANGED, all_widths
from n2n_gym.envs.shrinking import ShrinkageEpisode, check_rates
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import RATES, shrinkages
from n2n_gym.networks.descent import refuse_stranger
from n2n_gym.networks.reading import read_architecture
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import TeacherLike

ACTIONS: Final = ("discrete", "continuous")


class ShrinkEnv(CompressionEnv):
    """
    ## Description
    The agent shrinks the network that remains after removal. It chooses a rate for each
    width group and each kernel: the fraction that remains. A width group is a set of
    layers whose output widths are tied, for example because their outputs are added.
    The channels with the largest L1 norms of their weights remain. After the last
    decision the student is scored on validation images, as in N2NRemove. Distillation,
    compression and accuracy refer to the original teacher, whatever the start.

    ## Action Space
    `Discrete(10)`: action i is the rate (i + 1) / 10. With `action="continuous"`,
    `Box(-1, 1, (1,), float32)`, mapped linearly to the rates 0.1 to 1. A width is
    rounded to the nearest positive multiple of the number of groups in its
    convolutions. By default a kernel is rounded to the nearest odd length; ties go up.
    The padding follows the kernel, so that maps keep their size. Every rate in `rates`
    is legal for widths and kernels. If several rates lead to the same kernel,
    `info["action_mask"]` and `action_masks()` offer only the highest (with
    `kernels="floor"`, all). A rate of a padding is illegal if no network can be built
    with it.

    ## Observation Space
    `Box(0, 1, (T, F), float32)`, one row for each decision, in order. Between them is
    one row for each unit without a decision. The columns are those of N2NRemove;
    `choice` is a rate.

    ## Starting State
    The start network, before any decision. `reset(options={"decisions": [...]})` starts
    after a legal sequence of decisions instead.

    ## Rewards
    As in N2NRemove: 0 until the last decision, then R = C(2 - C) * accuracy_student /
    accuracy_teacher. `reward=` replaces this formula.

    ## Episode End
    The episode terminates after the last decision, or, with `illegal="end"`, at an
    illegal action. It is never truncated.

    ## Information
    As in N2NRemove. With continuous actions there is no `action_mask`.

    ## Arguments
    ```python
    gym.make("N2NShrink-v0", teacher="resnet18", task="digits", start="student.json")
    ```

    Args:
        start: The network to shrink, usually the result of removal: an `Architecture`,
            its JSON, or the path of a file with its JSON. By default the teacher.
        variables: Which variables to shrink: any of "width", "kernel" and "padding".
        granularity: What one decision shrinks: "group" (one group of tied widths, or
            one kernel), or "stage" (all layers of equal width and resolution).
        kernels: How a kernel's length is rounded: "nearest" odd length, or "floor", the
            largest odd length that is not above rate * length.
        rates: The rates offered, some of 0.1, 0.2, ..., 1, including 1; by default all.
        action: Kind of action space: "discrete" or "continuous".
        teacher, task, weights, normalisation, keep, evaluator, evaluator_workers,
            store, precision, reward, constraints, limits, fit, resources, epsilon,
            strict, illegal, max_rows, device, train_teacher, render_mode: As in
            N2NRemove.

    ## References
    Ashok, Rhinehart, Beainy, Kitani: N2N Learning: Network to Network Compression via
    Policy Gradient Reinforcement Learning, ICLR 2018, arXiv 1709.06030.

    ## Version History
    * v0: first version.
    """

    # "keep": the action that changes nothing. "stage": what a policy decides.
    metadata = CompressionEnv.metadata | {"keep": UNCHANGED, "stage": "shrink"}

    def __init__(
        self,
        teacher: TeacherLike = "resnet18",
        task: str | Task | None = None,
        *,
        start: Architecture | str | Path | None = None,
        variables: Sequence[str] = ("width", "kernel"),
        granularity: str = "group",
        kernels: str = "nearest",
        rates: Sequence[float] = RATES,
        action: Literal["discrete", "continuous"] = "discrete",
        **arguments: Unpack[Arguments],
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"unknown action={action!r}; known: {', '.join(ACTIONS)}")
        if arguments.get("strict") and action == "continuous":
            raise ValueError(
                "strict=True needs an action mask, and action='continuous' has none"
            )
        check_rates(rates)
        if tuple(rates) != RATES and action == "continuous":
            raise ValueError(
                "rates= needs discrete actions; with action='continuous' every rate "
                "is possible"
            )
        super().__init__(teacher, task, **arguments)
        whole = self.teacher.architecture
        begin = load_start(start, whole)
        decisions = shrinkages(
            begin,
            variables,
            kernels=kernels,
            scope=granularity,
            keep=self.kept,
        )
        episode = ShrinkageEpisode(
            begin,
            decisions,
            is_discrete=action == "discrete",
            rates=rates,
            fit=self.fit,
            widths=all_widths(self.kept),
        )
        self._begin(episode)


def load_start(
    start: Architecture | str | Path | None, teacher: Architecture
) -> Architecture:
    """The start of a shrinkage, which must descend from the teacher.

    Raises:
        ValueError: The start cannot be read, or does not descend from the teacher: its
            layers are not the teacher's, not in the teacher's order, or larger than in
            the teacher.
    """
    if start is None:
        return teacher
    found = read_architecture("start", start)
    refuse_stranger(found, teacher)
    return found
