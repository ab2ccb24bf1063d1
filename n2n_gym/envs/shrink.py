"""Stage two: how far to shrink what remains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from typing_extensions import Unpack

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
    What is left of a teacher network after removal shrinks further. The agent goes
    through its width groups (layers whose output widths are tied, by an addition for
    one) and its kernels, and decides for each what share of it remains. Of the
    channels, those whose weights have the largest L1 norm stay. After the last decision
    the student inherits the teacher's weights, is distilled from the teacher for a
    short while, and is scored on validation images. Distillation, compression and
    accuracy are against the original teacher, whatever the start.

    ## Action Space
    `Discrete(10)`: action i is the rate (i + 1) / 10. With `action="continuous"`,
    `Box(-1, 1, (1,), float32)`, mapped linearly to the rates 0.1 to 1. A width becomes
    the nearest positive multiple of what its convolutions' groups ask for; a kernel
    becomes the odd length nearest to its rate, ties up, padding following. Every such
    action is legal, but of rates that lead to the same kernel `info["action_mask"]` and
    `action_masks()` offer one, the highest. Paddings, if they are among the variables,
    have illegal actions too.

    ## Observation Space
    `Box(0, 1, (T, F), float32)`, one row for each decision, in order, and between them
    one for each unit that no decision is about. The columns are those of N2NRemove;
    `choice` is a rate.

    ## Starting State
    The start network with nothing decided. `reset(options={"decisions": [...]})`
    starts after a legal prefix of decisions instead.

    ## Rewards
    As in N2NRemove: 0 until the last decision, then
    R = C(2 - C) * accuracy_student / accuracy_teacher, or the reward given.

    ## Episode End
    Terminates after the last decision, or, with `illegal="end"`, at an illegal one.
    It is never truncated.

    ## Information
    As in N2NRemove. With continuous actions there is no `action_mask`.

    ## Arguments
    ```python
    gym.make("N2NShrink-v0", teacher="resnet18", task="digits", start="student.json")
    ```

    Args:
        start: What removal has left of the teacher: an `Architecture`, its JSON, or the
            path of a file with it. The teacher itself by default.
        variables: What to shrink, of "width", "kernel" and "padding".
        granularity: What one decision is about: "group" (tied widths, and each kernel),
            or "stage" (all layers of equal width and resolution).
        kernels: What a kernel's rate means: "nearest" odd length, or "floor", the
            largest that is not above it.
        rates: Those that are offered, of 0.1 to 1; all by default.
        action: "discrete" or "continuous".
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

    metadata = CompressionEnv.metadata | {"keep": UNCHANGED}  # leaves sizes as they are

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
                "strict=True masks actions, and action='continuous' has no mask"
            )
        check_rates(rates)
        if tuple(rates) != RATES and action == "continuous":
            raise ValueError(
                "rates= are of discrete actions; action='continuous' has all"
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
        ValueError: It cannot be read, or is no descendant: it has other layers than the
            teacher, in another order, or wider ones.
    """
    if start is None:
        return teacher
    found = read_architecture("start", start)
    refuse_stranger(found, teacher)
    return found
