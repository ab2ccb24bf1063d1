"""Resources of a student: parameters, bytes, milliseconds, joules.

A resource is a function of the student's and the teacher's architecture. The name
of a resource ends with the unit, as in ``latency_ms``.
"""

from n2n_gym.resources.loading import COUNTED, RESOURCES, load_meter, predicted
from n2n_gym.resources.measured import Energy, Latency, onnx_file
from n2n_gym.resources.resource import Meter, Resource, ResourceError

__all__ = [
    "COUNTED",
    "RESOURCES",
    "Energy",
    "Latency",
    "Meter",
    "Resource",
    "ResourceError",
    "load_meter",
    "onnx_file",
    "predicted",
]
