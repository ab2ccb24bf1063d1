"""What a student takes: parameters, bytes, milliseconds, joules.

A resource is one function of the student's and the teacher's architecture, by a name
that says its unit.
"""

from n2n_gym.resources.loading import RESOURCES, load_meter
from n2n_gym.resources.measured import Energy, Latency, onnx_file
from n2n_gym.resources.prediction import predicted
from n2n_gym.resources.resource import Meter, Resource, ResourceError

__all__ = [
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
