"""Both stages in one episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.episode import UNCHANGED, all_widths
from n2n_gym.envs.limits import Mode, Ranges
from n2n_gym.envs.shrinking import check_rates
from n2n_gym.envs.staged import StagedEpisode
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import Place, Store
from n2n_gym.limits.constraints import Constraints
from n2n_gym.networks.decisions import RATES, kept_names, removals, shrinkages
from n2n_gym.resources import Resource
from n2n_gym.rewards import Reward
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import TeacherLike, Weights


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
        weights: Weights | None = None,
        normalisation: Statistics | None = None,
        granularity: str = "unit",
        shrink_granularity: str = "group",
        variables: Sequence[str] = ("width", "kernel"),
        kernels: str = "nearest",
        rates: Sequence[float] = RATES,
        keep: str | Sequence[str] | None = None,
        evaluator: str | Evaluator = "inherit",
        evaluator_workers: Place = None,
        store: Store = True,
        precision: str | None = None,
        reward: str | Reward = "n2n",
        constraints: Constraints | Ranges | None = None,
        limits: Mode = "fixed",
        fit: bool = False,
        resources: Mapping[str, Resource] | None = None,
        epsilon: float = 0.0,
        strict: bool = False,
        illegal: Literal["keep", "end"] = "keep",
        max_rows: int | None = None,
        device: str | None = None,
        train_teacher: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if "padding" in variables:
            raise ValueError(
                "variables of N2NCompress are width and kernel; N2NShrink has paddings"
            )
        check_rates(rates)
        super().__init__(
            teacher,
            task,
            weights=weights,
            normalisation=normalisation,
            evaluator=evaluator,
            evaluator_workers=evaluator_workers,
            store=store,
            precision=precision,
            reward=reward,
            constraints=constraints,
            limits=limits,
            fit=fit,
            resources=resources,
            epsilon=epsilon,
            strict=strict,
            illegal=illegal,
            device=device,
            train_teacher=train_teacher,
            render_mode=render_mode,
        )
        start = self.teacher.architecture
        kept = kept_names(start, keep)
        episode = StagedEpisode(
            start,
            removals(start, granularity, keep=kept),
            shrinkages(
                start, variables, kernels=kernels, scope=shrink_granularity, keep=kept
            ),
            kept=kept,
            rates=rates,
            fit=fit,
            widths=all_widths(kept),
        )
        self._begin(episode, max_rows)
