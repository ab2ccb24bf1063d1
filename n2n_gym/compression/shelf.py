"""The shelf: the best students that a run has distilled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from n2n_gym.common.progress import progress
from n2n_gym.compression.assessment import measure_latency
from n2n_gym.compression.student_files import Finished, write_onnx
from n2n_gym.runs.folder import ONNX
from n2n_gym.teachers.teacher import Teacher

STUDENTS: Final = "students"  # the folder
POINT: Final = 0.01  # a point of accuracy
DEFAULT: Final = "student"


class Place(NamedTuple):
    """A student on the shelf.

    Attributes:
        roles: Roles in which the student is the best. The run's chosen student also has
            the role ``DEFAULT``, which comes first. The first role names the file.
        latency_ms: Time of one image in ONNX Runtime, on one thread. All students on
            the shelf are timed in turns.
    """

    roles: Sequence[str]
    finished: Finished
    bytes: int
    latency_ms: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "roles": list(self.roles),
            "file": f"{STUDENTS}/{self.roles[0]}.onnx",
            "fingerprint": self.finished.student.fingerprint,
            "num_params": self.finished.student.num_params,
            "num_macs": self.finished.student.num_macs,
            "accuracy": self.finished.score.accuracy,
            "test_accuracy": self.finished.test_accuracy,
            "bytes": self.bytes,
            "latency_ms": self.latency_ms,
        }


def front(found: Iterable[Finished]) -> list[Finished]:
    """Pareto-optimal students in accuracy, parameters and multiply-accumulates."""
    unique = {each.student.fingerprint: each for each in found}
    every = list(unique.values())
    return [
        one
        for one in every
        if not any(_beats(_worth(other), _worth(one)) for other in every)
    ]


def _worth(finished: Finished) -> tuple[float, int, int]:
    student = finished.student
    return finished.score.accuracy, -student.num_params, -student.num_macs


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def roles_of(
    found: Sequence[Finished], latency: Mapping[str, float], bar: float
) -> dict[str, Finished]:
    """The best student in each role; roles without a student are left out.

    Args:
        latency: Latency of each student in milliseconds, by fingerprint.
        bar: Validation accuracy that counts as good: the teacher's.
    """

    def size(each: Finished) -> int:
        return each.student.num_params

    def time(each: Finished) -> float:
        return latency[each.student.fingerprint]

    def at_least(accuracy: float) -> list[Finished]:
        return [each for each in found if each.score.accuracy >= accuracy]

    wanted: dict[str, tuple[list[Finished], Callable[[Finished], float]]] = {
        "smallest-as-good": (at_least(bar), size),
        "smallest-within-a-point": (at_least(bar - POINT), size),
        "fastest-within-a-point": (at_least(bar - POINT), time),
        "most-accurate": (list(found), lambda each: -each.score.accuracy),
        "smallest": (list(found), size),
    }
    return {role: min(of, key=by) for role, (of, by) in wanted.items() if of}


def write_shelf(
    student: Finished, others: Iterable[Finished], teacher: Teacher, folder: Path
) -> list[Place]:
    """Measure the best students and write their files.

    Args:
        student: The run's chosen student, whose ONNX file is already in ``folder``. It
            comes first on the shelf.
        others: Further students. Only those that are Pareto-optimal among ``others``
            and best in a role get on the shelf.
        folder: The run's folder.
    """
    place = folder / STUDENTS
    if place.exists():
        shutil.rmtree(place)
    place.mkdir()
    found = {each.student.fingerprint: each for each in (*front(others), student)}
    found = {student.student.fingerprint: student, **found}  # it comes first
    paths = {name: place / f"{name[:12]}.onnx" for name in found}
    with progress(len(found) + 1, "Writing and measuring students", "file") as bar:
        for name, each in found.items():
            if each is student:
                shutil.copyfile(folder / ONNX, paths[name])
            else:
                write_onnx(each, teacher, paths[name])
            bar.update()
        timings = measure_latency(list(paths.values()), teacher.task.input_shape)
        bar.update()
    latency = {
        name: 1e3 * timing.seconds for name, timing in zip(found, timings, strict=True)
    }
    best = roles_of(list(found.values()), latency, teacher.score.accuracy)
    kept = []
    for name, each in found.items():
        roles = [DEFAULT] * (each is student)
        roles += [role for role, holder in best.items() if holder is each]
        if not roles:
            paths[name].unlink()
            continue
        path = paths[name].rename(place / f"{roles[0]}.onnx")
        kept.append(Place(roles, each, path.stat().st_size, latency[name]))
    return kept
