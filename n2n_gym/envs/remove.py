"""Stage one: what to remove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from n2n_gym.envs.compression import CompressionEnv, Mask
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import Place, Store
from n2n_gym.limits.bounds import Least, least_removed
from n2n_gym.limits.constraints import Constraints
from n2n_gym.networks.architecture import Architecture, Wiring
from n2n_gym.networks.decisions import Removal, legal_removal, removals
from n2n_gym.resources import Resource
from n2n_gym.rewards import Reward
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import TeacherLike, Weights

KEEP, REMOVE = 0, 1


class RemoveEnv(CompressionEnv[Removal]):
    """
    ## Description
    A trained teacher network is to become a small student. The agent goes through the
    units of the network (a convolution or linear layer with the normalisation,
    activation and dropout that follow it) and through its branches (what only joins
    read, such as a residual branch), and decides for each whether it stays or goes.
    After the last decision the student inherits the teacher's weights, is distilled
    from the teacher for a short while, and is scored on validation images.

    ## Action Space
    `Discrete(2)`: 0 keeps, 1 removes. A removal is illegal if what is left could not be
    built, if it would add parameters or multiply-accumulates, or if nothing of it is
    left. `info["action_mask"]` and `action_masks()` tell; keeping is always legal.

    ## Observation Space
    `Box(0, 1, (T, F), float32)`, one row for each decision, in order, and between them
    one for each unit that always stays. The columns, `n2n_gym.envs.features.COLUMNS`,
    describe the row's layers, what it decides, and in the last three whether it is
    being decided now, whether it has been, and how (1: removed).

    ## Starting State
    The teacher, with nothing decided. `reset(options={"decisions": [...]})` starts
    after a legal prefix of decisions instead.

    ## Rewards
    0 until the last decision, then R = C(2 - C) * accuracy_student / accuracy_teacher,
    where C = 1 - params_student / params_teacher, or the reward given. A student that
    breaks a limit of `constraints` earns epsilon (R + 1) - 1 instead; with
    `epsilon=0`, and where the student cannot be scored, that is -1. Do not discount
    (gamma is 1).

    ## Episode End
    Terminates after the last decision, or, with `illegal="end"`, at an illegal one.
    It is never truncated.

    ## Information
    From `reset` and every `step`: `action_mask`, int8, all ones at the end, and with
    `strict=True` `infeasible`: whether no action can lead to a student that keeps the
    limits, so that the mask is of what is legal. From every `step`: `illegal`, and
    `reward_vector`, a tuple of floats: accuracy against the teacher's and the share
    saved of each resource, as the attribute `objectives` names them; zeros before the
    end. At the end: `accuracy` and `teacher_accuracy` (validation, in [0, 1]),
    `num_params`, `num_macs` and every other resource that was measured, by its name,
    `compression`, `excess_<limit>` of each limit (how much too large; at most 0 where
    it is kept),
    `violated` (the names of those that are broken, with commas between), `cost`
    (nominal student-epochs), `cost_once` (spent once for all students), `is_success`
    (at most 0.01 less accurate than the teacher, and no limit broken), `fingerprint`,
    `student` (the architecture as JSON), and `error` in place of the accuracy where
    there is no score.

    ## Arguments
    ```python
    gym.make("N2NRemove-v0", teacher="resnet18", task="digits")
    ```

    Args:
        teacher: One of torchvision's classification CNNs by name, "module:function"
            (called with the task, gives a module), a module, or a `Teacher`. Or an
            `Architecture`, its JSON, or the path of its .json file: without a task its
            students can be scored by size alone, and no torch is imported.
        task: "digits", "mnist", "cifar10" and others by name, the path of an .npz file
            or of a folder of images, "module:function" or a `Task`; "digits" by
            default.
        weights: Trained ones for the teacher: the path of a safetensors file or of
            what `torch.save` wrote, a state dict, or a name of torchvision's
            ("IMAGENET1K_V1"). Such a teacher is scored, not trained.
        normalisation: Mean and deviation of each channel, of pixels in [0, 1], that the
            teacher's inputs are normalised with; the training images' by default.
        granularity: What one decision is about: "unit" (units and branches), "block"
            (branches alone), or "layer" (the paper's: every single layer).
        evaluator: How much is spent on a student's accuracy: "size" (nothing),
            "inherit" (the teacher's weights, no training), "elastic" (those of a
            teacher trained once to be cut), "short" (those, and some distillation),
            "paper" (from scratch, 5 epochs), "full" (to convergence).
            Or the path of a calibration that `n2n-gym scores calibrate` wrote,
            "module:attribute", an `Evaluator`.
        evaluator_workers: Where students are distilled: in this process (None), in so
            many worker processes, on a Ray cluster ("ray" or its address). The scores
            are the same.
        store: Where they are kept: in the user's cache folder (True), nowhere (False),
            in a file or a database by its URL.
        reward: "n2n", "accuracy" (for a search within limits), "log_size" (goes on
            rewarding size above 10x), "latency", "module:attribute" or a function of
            the student's and the teacher's `Score`.
        constraints: The most that a student may take of each resource, and the least
            "accuracy": `{"num_params": 1e6, "latency_ms": 2.0, "accuracy": 0.9}`; or
            `Limit`s, for weighted sums. Resources: "num_params", "num_macs",
            "onnx_bytes", "peak_bytes", "latency_ms", "energy_mj", "module:attribute".
        resources: Your own, by name: functions of the student's and the teacher's
            `Architecture`.
        epsilon: What is left of the reward of a student that breaks a limit.
        strict: Whether what can only lead to students that break a limit on parameters
            or MACs is masked. What the mask forbids is carried out all the same.
        illegal: "keep" takes an illegal action for a 0; "end" ends the episode with -1.
        max_rows: Pads the observation to as many rows, for policies that serve
            several teachers.
        device: Where to train and score; the accelerator if there is one by default.
        train_teacher: Whether training the teacher may take more than ten minutes.
        render_mode: "ansi", "rgb_array", or "human": a window that shows each step.

    ## References
    Ashok, Rhinehart, Beainy, Kitani: N2N Learning: Network to Network Compression via
    Policy Gradient Reinforcement Learning, ICLR 2018, arXiv 1709.06030.

    ## Version History
    * v0: first version.
    """

    # The action that leaves a decision's layers as they are.
    metadata = CompressionEnv.metadata | {"keep": KEEP}

    def __init__(
        self,
        teacher: TeacherLike = "resnet18",
        task: str | Task | None = None,
        *,
        weights: Weights | None = None,
        normalisation: Statistics | None = None,
        granularity: str = "unit",
        evaluator: str | Evaluator = "inherit",
        evaluator_workers: Place = None,
        store: Store = True,
        reward: str | Reward = "n2n",
        constraints: Constraints | None = None,
        resources: Mapping[str, Resource] | None = None,
        epsilon: float = 0.0,
        strict: bool = False,
        illegal: Literal["keep", "end"] = "keep",
        max_rows: int | None = None,
        device: str | None = None,
        train_teacher: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            teacher,
            task,
            weights=weights,
            normalisation=normalisation,
            evaluator=evaluator,
            evaluator_workers=evaluator_workers,
            store=store,
            reward=reward,
            constraints=constraints,
            resources=resources,
            epsilon=epsilon,
            strict=strict,
            illegal=illegal,
            device=device,
            train_teacher=train_teacher,
            render_mode=render_mode,
        )
        start = self.teacher.architecture
        self._lay_out(start, removals(start, granularity), max_rows)
        self.action_space = gym.spaces.Discrete(2)
        self._untouched = start.rewire(frozenset(), frozenset())
        self._restart()

    @property
    def student(self) -> Architecture:
        return self.start.keep(self._left)

    def _restart(self) -> None:
        self._removed: tuple[Removal, ...] = ()
        self._left = self._untouched
        self._without = self._try_next()

    def _try_next(self) -> Wiring | None:
        """What removing the decision at hand would leave, None if that is illegal."""
        if self.position == len(self.decisions):
            return None
        return legal_removal(self.start, self._removed, self._left, self.current)

    def _mask(self) -> Mask:
        can_remove = self._is_over or self._without is not None
        return np.array([1, can_remove], np.int8)

    def _is_legal(self, action: Any) -> bool:
        return action == KEEP or self._without is not None

    def _least(self, action: Any) -> Least:
        taken = (*self._removed, self.current) if action == REMOVE else self._removed
        return least_removed(self.start, taken, self.decisions[self.position + 1 :])

    def _keep(self) -> int:
        return KEEP

    def _decide(self, action: Any) -> float:
        if action == REMOVE:
            assert self._without is not None
            self._removed += (self.current,)
            self._left = self._without
        return float(action)

    def _advance(self) -> None:
        self._without = self._try_next()
