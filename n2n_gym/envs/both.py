"""Both stages in one episode."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import Unpack

from n2n_gym.envs.arguments import Arguments
from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.episode import UNCHANGED, all_widths
from n2n_gym.envs.shrinking import check_rates
from n2n_gym.envs.staged import StagedEpisode
from n2n_gym.networks.decisions import RATES, removals, shrinkages
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import TeacherLike


class CompressEnv(CompressionEnv):
    """
    ## Description
    A trained teacher network is to become a small student, in one episode: first the
    agent goes through what can be removed, as in N2NRemove, then through the teacher's
    width groups and kernels, as in N2NShrink. So there is a fixed number of rows. The
    student follows from the teacher and all choices, whatever was removed.

    Where removal has tied layers that were not tied in the teacher, the first of the
    teacher's decisions about any of them says their rate. A decision about what has
    gone, or what follows another, has one legal action.

    ## Action Space
    `Discrete(10)`: while removals are decided, 9 keeps and 0 removes, and no other is
    legal; then action i is the rate (i + 1) / 10. So 9 always leaves things as they
    are. `info["action_mask"]` and `action_masks()` tell.

    ## Observation Space
    `Box(0, 1, (T, F), float32)`: the rows of N2NRemove, then one for each shrinkage.

    ## Starting State
    The teacher, with nothing decided. `reset(options={"decisions": [...]})` starts
    after a legal prefix of decisions instead.

    ## Rewards
    As in N2NRemove: 0 until the last decision, then
    R = C(2 - C) * accuracy_student / accuracy_teacher, or the reward given.

    ## Episode End
    Terminates after the last decision, or, with `illegal="end"`, at an illegal one.
    It is never truncated.

    ## Information
    As in N2NRemove.

    ## Arguments
    ```python
    gym.make("N2NCompress-v0", teacher="resnet18", task="digits")
    ```

    Args:
        granularity: Of removals: "unit", "block" or "layer".
        shrink_granularity: Of shrinkages: "group" or "stage".
        variables, kernels, rates: As in N2NShrink; there are no paddings.
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

    metadata = CompressionEnv.metadata | {"keep": UNCHANGED}  # leaves all as it is

    def __init__(
        self,
        teacher: TeacherLike = "resnet18",
        task: str | Task | None = None,
        *,
        granularity: str = "unit",
        shrink_granularity: str = "group",
        variables: Sequence[str] = ("width", "kernel"),
        kernels: str = "nearest",
        rates: Sequence[float] = RATES,
        **arguments: Unpack[Arguments],
    ) -> None:
        if "padding" in variables:
            raise ValueError(
                "variables of N2NCompress are width and kernel; N2NShrink has paddings"
            )
        check_rates(rates)
        super().__init__(teacher, task, **arguments)
        start = self.teacher.architecture
        episode = StagedEpisode(
            start,
            removals(start, granularity, keep=self.kept),
            shrinkages(
                start,
                variables,
                kernels=kernels,
                scope=shrink_granularity,
                keep=self.kept,
            ),
            kept=self.kept,
            rates=rates,
            fit=self.fit,
            widths=all_widths(self.kept),
        )
        self._begin(episode)
