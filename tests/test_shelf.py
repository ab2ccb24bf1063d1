"""Several students to choose from, each the best in something."""

import json

import onnxruntime
import pytest

from n2n_gym.compression.assessment import evaluate_onnx
from n2n_gym.compression.shelf import front, roles_of
from n2n_gym.compression.student_files import Finished
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.rewards import Score


@pytest.fixture
def made(teacher):
    """Students of these sizes, with these accuracies."""

    def make(*pairs: tuple[float, float]) -> list[Finished]:
        whole = teacher.architecture
        found = []
        for share, accuracy in pairs:
            student = uniform_student(whole, int(whole.num_params * share))
            score = Score(accuracy, student.num_params, student.num_macs)
            found.append(Finished(student, None, score, accuracy))
        return found

    return make


def test_the_front_has_whom_no_other_beats(made):
    large, middle, small, beaten = made(
        (0.9, 0.98), (0.5, 0.97), (0.2, 0.9), (0.7, 0.96)
    )
    assert front([large, beaten, middle, small, middle]) == [large, middle, small]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.99, 0.98, 0.97, 0.5), (1, 2, 2, 0, 3)),
        ((0.99, 0.99, 0.99, 0.99), (3, 3, 3, 0, 3)),
        ((0.9, 0.8, 0.7, 0.6), (None, None, None, 0, 3)),
        ((0.98, 0.98, 0.5, 0.98), (3, 3, 3, 0, 3)),
    ],
)
def test_each_role_has_the_best_in_it(made, accuracies, expected):
    students = made(*zip((0.8, 0.6, 0.4, 0.2), accuracies, strict=True))
    latency = {s.student.fingerprint: s.student.num_params for s in students}
    roles = roles_of(students, latency, bar=0.98)
    names = (
        *("smallest-as-good", "smallest-within-a-point", "fastest-within-a-point"),
        *("most-accurate", "smallest"),
    )
    found = [students.index(roles[n]) if n in roles else None for n in names]
    assert found == list(expected)


def test_a_runs_shelf_is_written_measured_and_listed(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    shelf = summary["shelf"]
    assert 1 <= len(shelf) <= 6
    assert shelf[0]["roles"][0] == "student"
    assert shelf[0]["num_params"] == summary["student"]["num_params"]
    files = {path.name for path in (finished_run / "students").iterdir()}
    assert files == {f"{place['roles'][0]}.onnx" for place in shelf}
    for place in shelf:
        path = finished_run / place["file"]
        assert path.stat().st_size == place["bytes"]
        assert place["latency_ms"] > 0
        onnxruntime.InferenceSession(path)
        found = evaluate_onnx(path, None, "test")
        assert found.accuracy == pytest.approx(place["test_accuracy"])
    roles = [role for place in shelf for role in place["roles"]]
    assert len(roles) == len(set(roles))
    assert {"most-accurate", "smallest"} <= set(roles)
