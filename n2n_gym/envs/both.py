"""Both stages in one episode: removals, then shrinkages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

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
    The agent turns a trained teacher network into a small student in one episode. First
    it decides about removals, as in N2NRemove. Then it decides about the teacher's
    width groups and kernels, as in N2NShrink. The number of rows is therefore fixed.
    The student is a function of the teacher and all choices.

    A removal can tie widths that are separate in the teacher. The first decision about
    one of these widths sets the rate of all of them. If a decision is about removed
    layers, or about a width that is already set, only action 9 is legal.

    ## Action Space
    `Discrete(10)`: in the removals, 9 keeps, 0 removes and no other action is legal. In
    the shrinkages, action i is the rate (i + 1) / 10. So action 9 never changes
    anything. `info["action_mask"]` and `action_masks()` have the legal actions.

    ## Observation Space
    `Box(0, 1, (T, F), float32)`: the rows of N2NRemove, then one row for each
    shrinkage.

    ## Starting State
    The teacher, before any decision. `reset(options={"decisions": [...]})` starts after
    a legal sequence of decisions instead.

    ## Rewards
    As in N2NRemove: 0 until the last decision, then R = C(2 - C) * accuracy_student /
    accuracy_teacher. `reward=` replaces this formula.

    ## Episode End
    The episode terminates after the last decision, or, with `illegal="end"`, at an
    illegal action. It is never truncated.

    ## Information
    As in N2NRemove.

    ## Arguments
    ```python
    gym.make("N2NCompress-v0", teacher="resnet18", task="digits")
    ```

    Args:
        granularity: Granularity of removals: "unit", "block" or "layer".
        shrink_granularity: Granularity of shrinkages: "group" or "stage".
        variables, kernels, rates: The arguments of N2NShrink; paddings cannot be
            shrunk.
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
    metadata = CompressionEnv.metadata | {"keep": UNCHANGED, "stage": "compress"}

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
                f"variables of N2NCompress must be some of width and kernel, got "
                f"{tuple(variables)}; N2NShrink also has padding"
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
