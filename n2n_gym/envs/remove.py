"""Stage one: what to remove."""

from __future__ import annotations

from typing_extensions import Unpack

from n2n_gym.envs.arguments import Arguments
from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.episode import KEEP, REMOVE, RemovalEpisode, all_widths
from n2n_gym.networks.decisions import removals
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import TeacherLike

__all__ = ["KEEP", "REMOVE", "RemoveEnv"]


class RemoveEnv(CompressionEnv):
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
    one for each unit that always stays. The columns, `n2n_gym.envs.columns.ABOUT`, say
    what the row's layers are, what is decided about it and how, and, the same in every
    row, how far the episode is, what the student so far takes, the least that it can
    still come to, and each limit. They are fixed for ever; new ones are appended.

    ## Starting State
    The teacher, with nothing decided. `reset(options={"decisions": [...]})` starts
    after a legal prefix of decisions instead; `"limits": {"num_params": 1e6}` sets
    bounds of this episode.

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
    limits, so that the mask is of what is legal. From `reset` and at the end:
    `limit_<name>` of each limit that was drawn or given, and `table_<resource>`, the
    hash of what a limited resource is predicted by. From every `step`: `illegal`, and
    `reward_vector`, a tuple of floats: accuracy against the teacher's and the share
    saved of each resource, as the attribute `objectives` names them; zeros before the
    end. At the end: `accuracy` and `teacher_accuracy` (validation, in [0, 1]),
    `num_params`, `num_macs` and every other resource that was measured, by its name,
    `compression`, `excess_<limit>` of each limit (how much too large; at most 0 where
    it is kept), `violated` (names of those that are broken, between commas), `cost`
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
        keep: Names of layers that stay as they are, or patterns: "layer4", "*.conv1";
            a list of them, or one text with commas between.
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
        precision: In which students are trained, and the teacher if it has to be:
            "float32" or "bfloat16". By default the one that is faster on this machine,
            measured once: elsewhere it may be the other, and scores differ.
        reward: "n2n", "accuracy" (for a search within limits), "log_size" (goes on
            rewarding size above 10x), "latency", "module:attribute" or a function of
            the student's and the teacher's `Score`.
        constraints: The most that a student may take of each resource, and the least
            "accuracy": `{"num_params": 1e6, "latency_ms": 2.0, "accuracy": 0.9}`; or
            `Limit`s, for weighted sums. With `limits="sample"`, a range of a bound:
            `{"num_params": (2e5, 2e6)}`. Resources: "num_params", "num_macs",
            "onnx_bytes", "peak_bytes", "latency_ms", "energy_mj", "module:attribute".
        limits: "fixed", or "sample": each reset draws the bounds from their ranges,
            log-uniformly; `info["limit_<name>"]` has them.
        fit: Whether the finished student is put on the surface of its limits: all its
            widths times one factor, the largest that keeps them. An action is then a
            proportion. `info["student"]` is the fitted one, `info["start"]` the other,
            which stage two goes on from.
        resources: Your own, by name: functions of the student's and the teacher's
            `Architecture`.
        epsilon: What is left of the reward of a student that breaks a limit.
        strict: Whether what can only lead to students that break a limit on parameters
            or MACs is masked. What the mask forbids is carried out all the same.
        illegal: "keep" takes an illegal action for a 0; "end" ends the episode with -1.
        max_rows: Pads the observation to as many rows, for policies that serve
            several teachers.
        device: Where to train and score; the accelerator if there is one by default.
        train_teacher: Does nothing: see ``load_teacher``.
        render_mode: "ansi", "rgb_array", or "human": a window that shows each step.

    ## References
    Ashok, Rhinehart, Beainy, Kitani: N2N Learning: Network to Network Compression via
    Policy Gradient Reinforcement Learning, ICLR 2018, arXiv 1709.06030.

    ## Version History
    * v0: first version.
    """

    metadata = CompressionEnv.metadata | {"keep": KEEP}  # leaves layers as they are

    def __init__(
        self,
        teacher: TeacherLike = "resnet18",
        task: str | Task | None = None,
        *,
        granularity: str = "unit",
        **arguments: Unpack[Arguments],
    ) -> None:
        super().__init__(teacher, task, **arguments)
        start = self.teacher.architecture
        decisions = removals(start, granularity, keep=self.kept)
        widths = all_widths(self.kept)
        episode = RemovalEpisode(
            start, decisions, kept=self.kept, fit=self.fit, widths=widths
        )
        self._begin(episode)
