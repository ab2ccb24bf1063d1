"""Stage one: the agent decides what to remove."""

from __future__ import annotations

from typing import Unpack

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
    The agent turns a trained teacher network into a small student. It decides for each
    unit and each branch whether to keep or remove it. A unit is a convolution or linear
    layer with the normalisation, activation and dropout that follow it. A branch, such
    as a residual branch, ends in a layer that only additions, concatenations or
    products read. After the last decision the student is scored on validation images.
    By default it has the teacher's weights and is not trained; some evaluators distil
    it.

    ## Action Space
    `Discrete(2)`: 0 keeps, 1 removes. A removal is illegal if its layers are already
    gone, or if the resulting network could not be built, would lack a layer of `keep`,
    or would have more parameters or multiply-accumulates. (With `granularity="layer"`,
    the removal of an activation or a max pool can add multiply-accumulates.)
    `info["action_mask"]` and `action_masks()` have the legal actions; keeping is always
    legal.

    ## Observation Space
    `Box(0, 1, (T, F), float32)`, one row for each decision, in order. Between them is
    one row for each unit that always stays. Columns describe the row's layers and the
    decision about them. Other columns are equal in all rows: the progress of the
    episode, the student's resources so far, lower bounds on its final resources, and
    the limits. `n2n_gym.envs.columns.ABOUT` explains each column. Columns never change;
    new ones are appended.

    ## Starting State
    The teacher, before any decision. `reset(options={"decisions": [...]})` starts after
    a legal sequence of decisions instead; `"limits": {"num_params": 1e6}` sets the
    limits of this episode.

    ## Rewards
    0 until the last decision, then R = C(2 - C) * accuracy_student / accuracy_teacher,
    with C = 1 - params_student / params_teacher. `reward=` replaces this formula. A
    student that breaks a limit of `constraints` gets epsilon (R + 1) - 1 instead, which
    is -1 with `epsilon=0`. A student that cannot be scored gets -1. Do not discount
    (gamma is 1).

    ## Episode End
    The episode terminates after the last decision, or, with `illegal="end"`, at an
    illegal action. It is never truncated.

    ## Information
    From `reset` and every `step`:

    - `action_mask`: int8, all ones at the end.
    - `infeasible`, with `strict=True`: True if, by the lower bounds on parameters and
      MACs, every action leads to students that break a limit. If it is True, the mask
      shows all legal actions.

    From `reset` and at the end:

    - `limit_<name>`: each limit that was drawn or set for this episode.
    - `table_<resource>`: a hash of the data that a limited resource is predicted from.

    From every `step`:

    - `illegal`: whether the action was illegal.
    - `reward_vector`: a tuple of floats, all 0 before the end. The first entry is the
      accuracy divided by the teacher's, the others are the fractions of resources that
      the student saves. The attribute `objectives` names the entries.

    At the end:

    - `accuracy`, `teacher_accuracy`: on validation images, in [0, 1].
    - `num_params`, `num_macs`, and every other measured resource by its name.
    - `compression`: C of the reward.
    - `excess_<limit>`: the amount above the limit; at most 0 if the limit is kept.
    - `violated`: names of the broken limits, separated by commas.
    - `cost`: nominal passes of a student over the training images, for this score.
    - `cost_once`: nominal passes that are made once for all students.
    - `is_success`: no limit is broken and accuracy is at most 0.01 below the teacher's.
    - `fingerprint`, `student`: a hash of the student's architecture, and that
      architecture as JSON.
    - `error`: the reason why there is no score. It exists only in this case, in which
      `accuracy`, `teacher_accuracy`, `excess_<limit>`, `violated` and resources such as
      `latency_ms` are missing.

    ## Arguments
    ```python
    gym.make("N2NRemove-v0", teacher="resnet18", task="digits")
    ```

    Args:
        teacher: A torchvision classification CNN by name, "module:function" (a function
            of the task that returns a module), a module, or a `Teacher`. An
            `Architecture`, its JSON or the path of its .json file works too. If such a
            teacher has no task, students are scored by size alone, without torch.
        task: A data set by name ("digits", the default, "mnist", "cifar10" and others),
            the path of an .npz file or of a folder of images, "module:function", or a
            `Task`.
        weights: The teacher's trained weights: the path of a safetensors file or of a
            file that `torch.save` wrote, a state dict, or the name of torchvision
            weights ("IMAGENET1K_V1"). The teacher is then scored, not trained.
        normalisation: Mean and standard deviation of each channel, for pixels in
            [0, 1], that normalise the teacher's inputs. By default the mean and
            standard deviation of the training images.
        granularity: What one decision removes: "unit" (a unit or a branch), "block" (a
            branch), or "layer" (a single layer, as in the paper).
        keep: Layers to leave unchanged, by name or pattern: "layer4", "*.conv1". A
            list, or one string separated by commas.
        evaluator: How students are scored: one of the names below, from cheap to
            expensive; the path of a calibration by `n2n-gym scores calibrate`;
            "module:attribute"; or an `Evaluator`.

            - "size": by their size alone.
            - "inherit": with the teacher's weights, without training.
            - "elastic": with weights from an elastic teacher, which is trained once so
              that students cut from it work untrained.
            - "quick": with the teacher's weights, after a short distillation.
            - "short": with an elastic teacher's weights, after a short distillation.
            - "paper": distilled for five epochs from scratch.
            - "full": distilled to convergence.
        evaluator_workers: Where students are scored: in this process (None), in this
            number of worker processes, or on a Ray cluster ("ray" or its address).
            Scores do not depend on this choice.
        store: Where scores are stored: in the user's cache folder (True), nowhere
            (False), or in a file or database (its path or URL).
        precision: Precision of training, for students and for a teacher that has to be
            trained: "float32" or "bfloat16". By default the faster of the two, as
            measured once on this machine. So the default, and with it the scores, can
            differ between machines.
        reward: "n2n", "accuracy" (for a search within limits), "log_size" (does not
            saturate for students over 10x smaller), "latency", "module:attribute", or a
            function of the student's and the teacher's `Score`.
        constraints: Upper limits on resources and a lower limit on "accuracy":
            `{"num_params": 1e6, "latency_ms": 2.0, "accuracy": 0.9}`. A list of
            `Limit`s allows weighted sums. With `limits="sample"`, give ranges:
            `{"num_params": (2e5, 2e6)}`. Resources: "num_params", "num_macs",
            "onnx_bytes", "peak_bytes", "latency_ms", "energy_mj", "module:attribute".
        limits: "fixed", or "sample": each reset draws the limits log-uniformly from
            their ranges. `info["limit_<name>"]` is the drawn limit.
        fit: Whether to scale all widths of the finished student by one factor, the
            largest that keeps the limits. Actions then set the proportions of widths.
            `info["student"]` is the scaled student; `info["start"]` is the unscaled
            one, which N2NShrink can start from. `metadata["fits"]` is True.
        resources: Your own resources by name: functions of the student's and the
            teacher's `Architecture`.
        epsilon: A number in [0, 1]. A student that breaks a limit gets
            epsilon (R + 1) - 1 instead of R.
        strict: Whether to mask actions after which no student can keep the limits on
            parameters and MACs. Masked actions are still executed if they are played.
        illegal: What an illegal action does: with "keep" it changes nothing, with "end"
            it ends the episode with reward -1.
        max_rows: Number of rows to pad the observation to, for policies that serve
            several teachers.
        device: Device for training and scoring. By default the accelerator, if there is
            one.
        train_teacher: Has no effect; older versions needed it.
        render_mode: "ansi" (text), "rgb_array" (a picture), or "human" (a window that
            shows each step).

    ## References
    Ashok, Rhinehart, Beainy, Kitani: N2N Learning: Network to Network Compression via
    Policy Gradient Reinforcement Learning, ICLR 2018, arXiv 1709.06030.

    ## Version History
    * v0: first version.
    """

    # "keep": the action that changes nothing. "stage": what a policy decides.
    metadata = CompressionEnv.metadata | {"keep": KEEP, "stage": "remove"}

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
