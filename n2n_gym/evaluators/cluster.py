"""A runner that measures students on a Ray cluster."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import ray
import torch

from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.packed_teacher import pack, packed_name
from n2n_gym.evaluators.runner import Result, Trial
from n2n_gym.evaluators.worker import Broken, Job, Lost, Measured, perform
from n2n_gym.evaluators.workers import LONGEST, time_limit
from n2n_gym.rewards import Failure
from n2n_gym.teachers.teacher import Teacher

HERE: Final = "ray"  # this process's cluster, or else a new one on this machine
SHARE: Final = 0.25  # share of an accelerator for one student

_teachers: dict[str, Teacher] = {}  # teachers that a Ray worker has loaded


class RayWorkers:
    """Measures students on a Ray cluster; each student is a task that takes one CPU.

    On accelerators, each student also takes a quarter of a GPU. A Ray worker stays
    alive and keeps the last teacher and its data in memory. If a node or worker is
    lost, each student that was measured there counts as a retryable failure, which
    `evaluate` retries once.

    Args:
        address: ``"ray"`` for a new cluster on this machine, or a cluster's address:
            ``"ray://host:port"``, ``"host:port"``, ``"auto"``. If this process is
            already connected to a cluster, that cluster is used, whatever the address.
        longest: Time limit for one student in seconds, from its submission to Ray. If
            the student's nominal cost is above 1 student-epoch, the limit is multiplied
            by that cost.
    """

    def __init__(self, address: str = HERE, *, longest: float = LONGEST) -> None:
        self.address = address
        self.longest = longest
        self._packed: dict[str, Any] = {}  # Ray's references, by the teacher's name

    def run(
        self, trials: Sequence[Trial], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        self._connect()
        name, reference = packed_name(teacher), self._reference_to(teacher)
        share = 0.0 if settings.device.type == "cpu" else SHARE
        perform = _perform.options(num_gpus=share)
        waiting = deque(enumerate(trials))
        under_way: dict[Any, tuple[int, float]] = {}  # trial's number, latest end
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self._capacity(share):
                    number, trial = waiting.popleft()
                    student = trial.student.to_json()
                    job = Job(student, name, settings, trial.seed)
                    # In a list, so that Ray passes the reference on without resolving
                    # it.
                    future = perform.remote(job, [reference])
                    longest = time_limit(self.longest, trial, teacher, settings)
                    under_way[future] = number, time.monotonic() + longest
                soonest = min(latest for _, latest in under_way.values())
                left = max(0.0, soonest - time.monotonic())
                done, _ = ray.wait(list(under_way), timeout=left)
                for future in done:
                    number, _ = under_way.pop(future)
                    yield _result(number, future)
                late = [f for f, (_, t) in under_way.items() if t <= time.monotonic()]
                for future in late:
                    number, _ = under_way.pop(future)
                    ray.cancel(future, force=True)
                    reason = "it took too long"
                    yield Result(number, Failure(reason, retryable=True), 0.0)
        finally:
            for future in under_way:  # the caller stopped the run early
                ray.cancel(future, force=True)

    def close(self) -> None:
        """Drop the packed teachers; the cluster keeps running."""
        self._packed.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> RayWorkers:
        return self

    def __reduce__(self) -> tuple[Callable[[], RayWorkers], tuple[()]]:
        return partial(RayWorkers, self.address, longest=self.longest), ()

    def _connect(self) -> None:
        if not ray.is_initialized():
            self._packed.clear()  # they were another cluster's
            address = None if self.address == HERE else self.address
            ray.init(address, log_to_driver=False)

    def _capacity(self, share: float) -> int:
        """Number of trials that the cluster runs at once.

        Further trials are submitted only when earlier ones end, so that their waiting
        time does not count toward their time limit.

        Args:
            share: Fraction of a GPU that each trial takes; 0 on CPUs.
        """
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        count = resources.get("CPU", 1)
        if share:
            count = min(count, resources.get("GPU", 0) / share)
        return max(1, int(count))

    def _reference_to(self, teacher: Teacher) -> Any:
        """A reference to the packed teacher."""
        name = packed_name(teacher)
        if name not in self._packed:
            packed = io.BytesIO()
            torch.save(pack(teacher), packed)
            self._packed[name] = ray.put(packed.getvalue())
        return self._packed[name]


@ray.remote(num_cpus=1, max_retries=0)
def _perform(job: Job, references: list[Any]) -> Measured:
    def load(_: str) -> Any:
        try:
            packed = ray.get(references[0])
        except ray.exceptions.RayError as error:
            raise Lost(f"the teacher could not be fetched: {error}") from error
        return torch.load(io.BytesIO(packed))

    return perform(job, _teachers, load)


def _result(number: int, future: Any) -> Result:
    try:
        answer: Measured = ray.get(future)
    except ray.exceptions.RayTaskError as error:  # not lost, but failed
        raise RuntimeError(f"in a worker:\n{error}") from error
    except ray.exceptions.RayError as error:
        return Result(number, Failure(f"it was lost: {error}", retryable=True), 0.0)
    if isinstance(answer.result, Broken):
        raise RuntimeError(f"in a worker:\n{answer.result.traceback}")
    return Result(number, answer.result, answer.seconds, answer.provenance)
