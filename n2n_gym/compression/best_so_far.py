"""What a run that is stopped has found until then, as finished files."""

from __future__ import annotations

import logging
from typing import NamedTuple

from n2n_gym.compression.finalists import Finalists, test_accuracy
from n2n_gym.compression.student_files import Finished, write_student
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Score
from n2n_gym.runs.folder import HISTORY, ONNX, Run
from n2n_gym.runs.history import FINAL, read_history

logger = logging.getLogger(__name__)


class Offer(NamedTuple):
    """A student, and the evaluator that knows it."""

    student: Architecture
    evaluator: DistillationEvaluator


def write_best(final: Finalists, evaluator: Evaluator, run: Run) -> bool:
    """Write the files of the best student so far, if there is one.

    A finalist has been distilled longest; before those are, it is what the search has
    scored highest, distilled as it was for that.
    """
    offer = _best(final, evaluator, run)
    if offer is None:
        return False
    teacher = final.teacher
    (score,) = offer.evaluator([offer.student], teacher)
    if not isinstance(score, Score):
        return False
    network = offer.evaluator.network(offer.student, teacher)
    on_test = test_accuracy(network, teacher, final.device)
    finished = Finished(offer.student, network, score, on_test)
    write_student(finished, teacher, run.folder)
    times = teacher.architecture.num_params / offer.student.num_params
    logger.warning(
        "%s is the best student so far: %.1f times smaller, %.2f %% on the test images",
        run.folder / ONNX,
        times,
        100 * on_test,
    )
    return True


def _best(final: Finalists, evaluator: Evaluator, run: Run) -> Offer | None:
    if final.best is not None:
        return Offer(*final.best)
    lines = [line for line in read_history(run.folder / HISTORY) if "accuracy" in line]
    scored = [line for line in lines if line["stage"] != FINAL]
    if not scored:
        return None
    best = Architecture.from_json(max(scored, key=_reward)["student"])
    if isinstance(evaluator, DistillationEvaluator):
        return Offer(best, evaluator)
    # At once: the plan of the run decides nothing for it.
    return Offer(best, final.evaluator(epochs=1, views=1))


def _reward(line: dict[str, float]) -> float:
    return line["reward"]
