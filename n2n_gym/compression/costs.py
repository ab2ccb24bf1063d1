"""The costs of a run on this machine: seconds of its work, measured as the run goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heapreplace
from typing import Final

from torch import device, get_num_threads

from n2n_gym.evaluators.runner import Result
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.inference import seconds_an_image
from n2n_gym.rewards import Score
from n2n_gym.teachers.teacher import Teacher

TIMED_IMAGES: Final = 125
TRAINING: Final = 3.0  # forward passes that take as long as a training pass
# Images of the short trainings that are timed. The first one only warms a worker up.
SHOWN: Final = (128, 2_048, 512)
DIFFERENCE: Final = SHOWN[1] - SHOWN[2]


class Line:
    """Seconds as a line in multiply-accumulates, fitted to measurements.

    The fit minimises relative errors, because the networks of one run differ a
    hundredfold. Neither the constant nor the slope is negative.

    Args:
        sums: Sums over all measurements, which `add` changes in place.
    """

    def __init__(self, sums: list[float]) -> None:
        self._sums = sums

    def add(self, macs: float, seconds: float) -> None:
        one, x = 1 / seconds, macs / seconds
        for n, term in enumerate((one * one, one * x, x * x, one, x)):
            self._sums[n] += term

    def __bool__(self) -> bool:
        return self._sums[0] > 0

    def __call__(self, macs: float) -> float:
        """Seconds for a network with this many multiply-accumulates; 0 at first.

        The two coefficients minimise the sum of ((constant + slope * macs) / seconds -
        1)^2.
        """
        ones, mixed, squares, one, x = self._sums
        if not squares:
            return 0.0
        determinant = ones * squares - mixed * mixed
        if determinant > 1e-9 * ones * squares:
            constant = (one * squares - mixed * x) / determinant
            slope = (ones * x - mixed * one) / determinant
            if min(constant, slope) >= 0:
                return constant + slope * macs
        # One of them is 0: the other one explains most. If all measurements are of one
        # size, it is the slope.
        if x * x * ones >= (1 - 1e-9) * one * one * squares:
            return macs * x / squares
        return one / ones


class Costs:
    """What the work of a run costs, in seconds.

    Args:
        kept: The measurements by name, which the run's plan keeps.
        num_images: Number of training images.
    """

    def __init__(self, kept: dict[str, list[float]], num_images: int) -> None:
        self.num_images = num_images
        # Of a forward pass of one image, in this process.
        self.image = Line([0.0] * 5)
        # Of an epoch in the search, and how many times as long one of the finalists
        # takes: seconds that were measured, and those that the line had predicted.
        # Finalists have their own measurements too: epochs and seconds.
        self._kept = kept
        self._epoch = Line(kept.setdefault("epoch", [0.0] * 5))
        self._finals = kept.setdefault("finalists", [0.0] * 2)
        self._scores = kept.setdefault("scores", [0.0] * 2)  # number, seconds

    def scored(self, macs: float, epochs: float, seconds: float) -> None:
        """Record a score: seconds of one process for this nominal cost in epochs."""
        self.scored_in(seconds, 1)
        if seconds > 0 and epochs > 0:
            self._epoch.add(macs, seconds / epochs)

    def scored_in(self, seconds: float, count: int) -> None:
        """Record scores by an evaluator whose cost in epochs is not known."""
        self._scores[0] += count
        self._scores[1] += seconds

    def distilled(self, macs: float, epochs: float, seconds: float) -> None:
        """Record the distillation of a finalist by one process."""
        self._finals[0] += seconds
        self._finals[1] += epochs * self._predicted(macs)
        own = self._kept.setdefault(_own(macs), [0.0] * 2)
        own[0] += epochs
        own[1] += seconds

    @property
    def knows_finalists(self) -> bool:
        """Whether a finalist was distilled, at least for some steps."""
        return any(self._finals)

    def score(self, guess: float = 1.0) -> float:
        """Mean seconds of one process for a score."""
        count, seconds = self._scores
        return seconds / count if count else guess

    def epoch(self, macs: float) -> float:
        """Seconds of one process for an epoch of a finalist."""
        if _own(macs) in self._kept:
            epochs, seconds = self._kept[_own(macs)]
            return seconds / epochs
        measured, predicted = self._finals
        return self._predicted(macs) * (measured / predicted if predicted else 1.0)

    def _predicted(self, macs: float) -> float:
        if self._epoch:
            return self._epoch(macs)
        # One process for each core, instead of all cores for one image.
        alone = get_num_threads() * self.image(macs)
        return TRAINING * self.num_images * alone

    def time_images(self, teacher: Teacher, small: Architecture, at: device) -> None:
        """Time a batch of the teacher and one of a small student on a device.

        Both networks compute in the precision and with the threads of the accuracies
        that a run reports.
        """
        split = teacher.task.split("train", at)
        images, _, _ = next(iter(split.batches(min(TIMED_IMAGES, len(split)))))
        inputs = teacher.normalise(images)
        for each in (teacher.architecture, small):
            with seeded(0, at):  # new weights draw numbers
                network = teacher.inheritance(at).build(each)
            self.image.add(each.num_macs, seconds_an_image(network, inputs))


def _own(macs: float) -> str:
    """The name of a finalist's own measurements."""
    return f"finalists of {macs:.0f} MACs"


def time_training(
    students: Sequence[Architecture],
    teacher: Teacher,
    evaluator: Callable[[float], DistillationEvaluator],
    on_training: Callable[[], object],
) -> Iterator[tuple[Architecture, float, float]]:
    """Time the training of students, as many at once as the runner has workers.

    Each student is distilled with more and with fewer images. The difference leaves out
    what every distillation has once, such as its validation images. An earlier training
    leaves out what a worker does once, such as loading the teacher.

    Args:
        evaluator: Function that makes the evaluator of a number of epochs; it should
            store nothing.
        on_training: Callback after each short training; there are ``len(SHOWN)`` for
            each student.

    Yields:
        A student, a number of epochs, and the seconds that they took.
    """
    num_images = len(teacher.task.splits["train"])

    def seconds_of(shown: int) -> dict[Architecture, float]:
        found: dict[Architecture, float] = {}

        def note(student: Architecture, done: Result) -> None:
            if isinstance(done.result, Score):
                found[student] = done.seconds
            on_training()

        measure = evaluator(shown / num_images)
        measure.on_result = note
        measure(students, teacher)
        return found

    _, more, fewer = map(seconds_of, SHOWN)
    epochs = DIFFERENCE / num_images
    for student in more.keys() & fewer.keys():
        if more[student] > fewer[student]:
            yield student, epochs, more[student] - fewer[student]


def together(seconds: Iterable[float], workers: int) -> float:
    """Seconds until all is done, if each free worker begins the next."""
    busy = [0.0] * workers
    for each in seconds:
        heapreplace(busy, busy[0] + each)
    return max(busy)
