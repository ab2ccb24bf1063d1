"""How a student gets its score."""

from n2n_gym.evaluators.calibration import (
    AccuracyMap,
    CalibratedEvaluator,
    Calibration,
    calibrate,
)
from n2n_gym.evaluators.distillation import Settings, distil, measure
from n2n_gym.evaluators.evaluator import Evaluator, SizeEvaluator, evaluate
from n2n_gym.evaluators.loading import (
    EVALUATORS,
    RUNGS,
    Place,
    Store,
    default_runner,
    load_evaluator,
    load_rung,
    load_runner,
    load_store,
    num_cores,
)
from n2n_gym.evaluators.rungs import (
    ELASTIC,
    FULL,
    INHERIT,
    PAPER,
    SHORT,
    Rung,
)
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import InProcess, Runner, Workers

__all__ = [
    "ELASTIC",
    "EVALUATORS",
    "FULL",
    "INHERIT",
    "PAPER",
    "RUNGS",
    "SHORT",
    "AccuracyMap",
    "CalibratedEvaluator",
    "Calibration",
    "DistillationEvaluator",
    "Evaluator",
    "InProcess",
    "Place",
    "Rung",
    "Runner",
    "Settings",
    "SizeEvaluator",
    "Store",
    "Workers",
    "calibrate",
    "default_runner",
    "distil",
    "evaluate",
    "load_evaluator",
    "load_rung",
    "load_runner",
    "load_store",
    "measure",
    "num_cores",
]
