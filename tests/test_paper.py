import json
import shlex
from types import SimpleNamespace

import pytest
from torch import nn

from benchmarks.paper import (
    CONTROLS,
    DESIGNED,
    NUM_PARAMS,
    ROWS,
    as_markdown,
    commands,
    designed_as_markdown,
    read,
    removed_alone,
)
from n2n_gym.networks.decisions import removals, shrink, shrinkages, without
from n2n_gym.pytorch.trace import trace
from n2n_gym.runs.options import Options
from n2n_gym.teachers.zoo import teacher_architecture

IMAGES = {
    "mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "svhn": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "caltech256": ((3, 64, 64), 257),
    "imagenet": ((3, 32, 32), 1000),
}


def test_rewards_follow_from_the_papers_own_figures():
    for row in ROWS:
        if row.accuracy is not None:
            share = row.accuracy / (row.accuracy - row.change)
            assert row.reward == pytest.approx((1 - row.times**-2) * share, abs=0.006)


@pytest.mark.parametrize(("teacher", "task"), NUM_PARAMS)
def test_a_limit_makes_the_student_as_small_as_the_papers(teacher, task):
    shape, classes = IMAGES[task]
    images = SimpleNamespace(input_shape=shape, num_classes=classes)
    whole = teacher_architecture(teacher, images).num_params
    for row in ROWS:
        if (row.teacher, row.task) == (teacher, task):
            assert row.times <= whole / row.limit() < 1.001 * row.times


def finished(folder, student, **more):
    """A folder with what the table reads of a finished run."""
    folder.mkdir(exist_ok=True)
    summary = {
        "teacher": {"num_params": 1_000, "test_accuracy": 0.90},
        "student": {"num_params": 100, "test_accuracy": student},
        "test": {"num_images": 10_000},
        "seconds": 9_000,
        "limits": [],
        **more,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_finished_run_fills_its_row(tmp_path):
    (row,) = (r for r in ROWS if r.folder == "cifar10-resnet18")
    assert as_markdown(tmp_path).count(" /  |") > 4 * len(ROWS) - 8
    folder = tmp_path / row.folder
    finished(folder, 0.81)
    # 1.96 * sqrt(0.81 * 0.19 / 10,000) is 0.77 points; Wilson's is a little lower.
    ours = (10.0, -9.0, 0.99 * 0.9, 81.0, 80.22, 81.76, 2.5, False)
    assert read(folder) == pytest.approx(ours, abs=0.01)
    expected = (
        "11.0 / 10.0 | 91.81 / 81.00 | 80.22 to 81.76 | -0.20 / -9.00 | "
        "0.990 / 0.891 | 2.5 | 1 |"
    )
    assert expected in as_markdown(tmp_path)
    finished(row.of_seed(tmp_path, 1), 0.83)
    expected = "91.81 / 82.00 | ± 1.41 | -0.20 / -8.00 | 0.990 / 0.902 | 2.5 | 2 |"
    assert expected in as_markdown(tmp_path, (0, 1))


def test_a_row_of_removal_alone_has_no_narrower_layers(tmp_path):
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    teacher = trace(nn.Sequential(*layers, *tail), (1, 8, 8))
    removed = without(teacher, removals(teacher, "layer"))
    assert removed.num_params < teacher.num_params
    narrow = shrink(teacher, dict.fromkeys(shrinkages(teacher, ("width",)), 0.5))
    (tmp_path / "teacher.json").write_text(teacher.to_json())
    shelf, lines = [], []
    for accuracy, student in ((0.9, narrow), (0.8, removed)):
        name = student.fingerprint
        size = {"num_params": student.num_params, "test_accuracy": accuracy}
        shelf.append({"fingerprint": name, "accuracy": accuracy, **size})
        line = {"stage": "final", "fingerprint": name, "student": student.to_json()}
        lines.append(json.dumps(line) + "\n")
    (tmp_path / "history.jsonl").write_text("".join(lines))
    finished(tmp_path, 0.9, shelf=shelf)
    assert removed_alone(tmp_path, {"shelf": shelf}) == shelf[1]
    alone = read(tmp_path, stages=1)
    assert alone.accuracy == 80
    assert not alone.is_narrowed
    assert read(tmp_path).accuracy == 90
    finished(tmp_path, 0.9, shelf=shelf[:1])
    assert read(tmp_path, stages=1).is_narrowed


def test_distilled_designs_fill_their_rows(tmp_path):
    assert len(commands(tmp_path)) == len(ROWS) + 2  # two designs have one command
    (tmp_path / CONTROLS).mkdir()
    line = {"task": "svhn", "control": "squeezenet", "teacher_name": "resnet18"}
    lines = [
        {**line, "num_params": 726_474, "seed": seed, "test": test}
        for seed, test in enumerate((0.89, 0.91))
    ]
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (tmp_path / CONTROLS / "results.jsonl").write_text(text)
    assert "727,000 / 726,474 | 89.34 / 90.00 |" in designed_as_markdown(tmp_path)
    assert len(commands(tmp_path)) == len(ROWS) + 1
    assert DESIGNED[0].command(tmp_path) not in commands(tmp_path)


def test_commands_say_where_their_results_belong(tmp_path):
    for row in ROWS:
        command = row.command(tmp_path)
        assert command.endswith(f"--output {tmp_path / row.folder}")
        assert ("--shrinkage-updates 0 " in command) == (row.stages == 1)
        assert row.command(tmp_path, seed=2).endswith(f"{row.folder}-2")
    assert len({row.folder for row in ROWS}) == len(ROWS)


def test_a_command_takes_six_cpu_hours_beside_its_teacher(tmp_path):
    (row,) = (r for r in ROWS if r.folder == "cifar10-resnet18-removal")
    weights = tmp_path / "cifar10-resnet18.safetensors"
    assert "--weights" not in row.command(tmp_path, tmp_path)
    weights.touch()
    words = shlex.split(row.command(tmp_path, tmp_path))[2:]
    words.remove("--no-controls")
    pairs = zip(words[::2], words[1::2], strict=True)
    given = {name.removeprefix("--").replace("-", "_"): text for name, text in pairs}
    counts = ("shrinkage_updates", "workers")
    given |= {name: int(given[name]) for name in counts}
    options = Options(**given, controls="none")
    assert options.seconds() * options.workers == 6 * 3600
    assert options.weights == str(weights)
    assert options.constraints() == {"num_params": int(11_173_962 / 5.3)}
