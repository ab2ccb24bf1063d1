from .compression.pipeline import compress
from .compression.summary import Summary
from .envs.checks import check_compression_env
from .envs.wrappers import (
    MultiObjective,
    ProgressiveConstraint,
    ProgressiveConstraintVector,
)
from .evaluators.evaluator import Evaluator, SizeEvaluator
from .evaluators.loading import load_evaluator
from .evaluators.workers import Workers
from .export.onnx import export_onnx
from .limits.constraints import Limit
from .networks.architecture import Architecture
from .networks.layers import ShapeError
from .pytorch.build import build
from .pytorch.inputs import Normalisation
from .pytorch.trace import TraceError, trace
from .resources import Energy, Latency, onnx_file, predicted
from .resources.accelerator import AcceleratorEnergy, TorchLatency
from .rewards import Failure, Score
from .runs.options import Options
from .scores import ScoreStore
from .tasks.augmentation import Augmentation
from .tasks.loading import load_task
from .tasks.task import Task
from .teachers.loading import load_teacher
from .teachers.teacher import Teacher

__version__: str

__all__ = [
    "AcceleratorEnergy",
    "Architecture",
    "Augmentation",
    "Energy",
    "Evaluator",
    "Failure",
    "Latency",
    "Limit",
    "MultiObjective",
    "Normalisation",
    "Options",
    "ProgressiveConstraint",
    "ProgressiveConstraintVector",
    "Score",
    "ScoreStore",
    "ShapeError",
    "SizeEvaluator",
    "Summary",
    "Task",
    "Teacher",
    "TorchLatency",
    "TraceError",
    "Workers",
    "build",
    "check_compression_env",
    "compress",
    "export_onnx",
    "load_evaluator",
    "load_task",
    "load_teacher",
    "onnx_file",
    "predicted",
    "trace",
]
