"""The files of the best student so far, written when a run is stopped."""

from __future__ import annotations

import logging
from operator import itemgetter

from n2n_gym.compression.choice import Offer
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.student_files import write_student
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Score
from n2n_gym.runs.folder import HISTORY, ONNX, Run
from n2n_gym.runs.history import FINAL, read_history

logger = logging.getLogger(__name__)


def write_best(final: Finalists, evaluator: Evaluator, run: Run) -> None:
    """Write the files of the best student so far, if there is one.

    The best student is the best finalist of the last finished round. Before any round
    is finished, it is the student with the highest reward in the search, distilled by
    the search's evaluator. If that evaluator does not distil, the student is distilled
    for one epoch.
    """
    offer = final.best or _best_scored(final, evaluator, run)
    if offer is None:
        return
    teacher = final.teacher
    (score,) = offer.evaluator([offer.student], teacher)
    if not isinstance(score, Score):
        return
    finished = final.finished(offer)
    write_student(finished, teacher, run.folder)
    times = teacher.architecture.num_params / offer.student.num_params
    logger.warning(
        "%s is the best student so far: %.1f times smaller, %.2f %% on the test images",
        run.folder / ONNX,
        times,
        100 * finished.test_accuracy,
    )


def _best_scored(final: Finalists, evaluator: Evaluator, run: Run) -> Offer | None:
    lines = read_history(run.folder / HISTORY)
    scored = [x for x in lines if "accuracy" in x and x["stage"] != FINAL]
    if not scored:
        return None
    best = max(scored, key=itemgetter("reward"))
    student = Architecture.from_json(best["student"])
    if isinstance(evaluator, DistillationEvaluator):
        return Offer(student, evaluator)
    # One epoch at once, without a decision of the run's plan.
    return Offer(student, final.evaluator(epochs=1, num_variants=1))
