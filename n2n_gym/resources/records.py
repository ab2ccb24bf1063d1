"""The resources of the package, one record each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Final, TypeAlias

from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources.computed import num_macs, num_params, peak_bytes
from n2n_gym.resources.latency_table import PredictedLatency, latency_table
from n2n_gym.resources.measured import Energy, Latency, onnx_bytes
from n2n_gym.resources.prediction import FileSize
from n2n_gym.resources.resource import Resource

# Margin for measured resources, because the next measurement may differ. If the teacher
# is larger than the caches, one measurement in turns with it is 0.87 to 1.17 times
# another, depending on other memory traffic.
MARGIN: Final = 0.1

# Takes the teacher and the teacher's amount; returns the function that predicts.
Predictor: TypeAlias = Callable[[Architecture, float], Resource]


@dataclass(frozen=True)
class Record:
    """What the package knows about one of its resources.

    Two facts are attributes of the function instead, because they can hold for any
    function: ``is_computed`` and ``is_of_machine``.

    Attributes:
        name: Name of the resource. Its last word is the unit (``common.quantities``).
        function: Function that computes or measures the resource.
        is_counted: Whether architectures count the resource themselves, at no cost.
        is_of_file: Whether the resource is the size of the student's file. The metadata
            of a written file add to it.
        margin: Fraction of a limit that a search leaves unused.
        predictor: Function that makes a prediction for searches, where measuring every
            student takes too long; None if there is none.
    """

    name: str
    function: Resource
    _: KW_ONLY
    is_counted: bool = False
    is_of_file: bool = False
    margin: float = 0.0
    predictor: Predictor | None = None


def _file_size(teacher: Architecture, whole: float) -> Resource:
    return FileSize.of(teacher)


def _latency(teacher: Architecture, whole: float) -> Resource:
    return PredictedLatency(latency_table(teacher, Latency()), whole)


RECORDS: Final[Mapping[str, Record]] = {
    record.name: record
    for record in (
        Record("num_params", num_params, is_counted=True),
        Record("num_macs", num_macs, is_counted=True),
        Record("peak_bytes", peak_bytes),
        Record("onnx_bytes", onnx_bytes, is_of_file=True, predictor=_file_size),
        Record("latency_ms", Latency(), margin=MARGIN, predictor=_latency),
        Record("energy_mj", Energy(), margin=MARGIN),
    )
}
