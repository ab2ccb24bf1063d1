"""The result of a run, as the report and the command line read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from n2n_gym.compression.assessment import Comparison, wilson
from n2n_gym.compression.shelf import Place
from n2n_gym.compression.student_files import Finished
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.rewards import Score


@dataclass
class Summary:
    """The result of a run: the teacher, the student, and the controls."""

    teacher: Score
    teacher_test_accuracy: float
    normalise: Normalisation  # normalisation of the networks' inputs
    student: Finished
    uniform: Finished | None
    magnitude: Finished | None
    random: Finished | None
    num_scored: int
    onnx_difference: float
    limits: list[dict[str, Any]]  # each limit with the networks' values
    test: Comparison  # of teacher and student
    seconds: float  # of the run, over all its processes
    shelf: list[Place]  # the students whose files are in ``students/``
    unlabelled: dict[str, int]  # images without labels, by split
    falls_short: bool  # whether the student can be told from the teacher

    def to_dict(self) -> dict[str, Any]:
        """The content of ``summary.json``."""

        def row(score: Score, test_accuracy: float) -> dict[str, Any]:
            count = self.test.num_images
            return {
                **score.to_dict(),
                "test_accuracy": test_accuracy,
                "test_interval": wilson(round(test_accuracy * count), count),
            }

        rows = {"teacher": row(self.teacher, self.teacher_test_accuracy)}
        for name in ("student", "uniform", "magnitude", "random"):
            finished: Finished | None = getattr(self, name)
            if finished is not None:
                rows[name] = row(finished.score, finished.test_accuracy)
        return {
            **rows,
            "normalisation": asdict(self.normalise),
            "num_scored": self.num_scored,
            "onnx_difference": self.onnx_difference,
            "limits": self.limits,
            "test": self.test.to_dict(),
            "seconds": self.seconds,
            "unlabelled": self.unlabelled,
            "falls_short": self.falls_short,
            "shelf": [place.to_dict() for place in self.shelf],
        }
