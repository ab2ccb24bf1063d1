"""How well latency is predicted for students that were not fitted.

    python -m benchmarks.latency                # ResNet-18 and two more, 50 minutes
    python -m benchmarks.latency --subjects vgg11_bn:32

For each teacher the costs are measured as `n2n-gym compress --max-latency` measures
them, or taken from the cache. Then the exported files of 50 other students are timed. A
third of them come from random play. A third have widths in blocks of channels. The last
third also have such widths, and are large: searches within limits produce students of
this kind. All students are timed in two passes; the difference between passes shows the
clock's own error. The error of a prediction is relative to the mean of both passes.
"One by one" means that each file is timed like a finalist. Runs on one thread of an
idle machine.

A teacher's results are a line of ``results.jsonl`` in the output folder. Teachers that
have a line there are not measured again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import nn

from benchmarks.results import Results
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.random_students import random_students, students_in_blocks
from n2n_gym.pytorch.trace import trace
from n2n_gym.resources import Latency, onnx_file
from n2n_gym.resources.clock import time_in_turns
from n2n_gym.resources.latency_table import latency_table, runner, time_students
from n2n_gym.resources.machine import processor
from n2n_gym.resources.nodes import BLOCK
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import teacher_architecture

SUBJECTS = ("resnet18:8", "resnet18:32", "vgg11_bn:8", "mobilenet_v2:32")
SEED = 4  # costs are fitted to seed 0; their kinds were chosen with other seeds
SECONDS = 120.0  # of a pass at most
LARGE = 1 / 20  # of the teacher's multiply-accumulates, or latency: what limits ask for
GROUPS = ("of random play", "in blocks of channels", "in blocks, large")


class Found(NamedTuple):
    """Latencies of students, as multiples of the teacher's.

    Attributes:
        passes: Both passes, (2, students).
        one_by_one: Each student measured like a finalist.
        built: Seconds to measure the costs; 0 if they came from the cache.
        each: Milliseconds of one prediction.
        whole: Latency of the teacher in milliseconds.
    """

    subject: str
    predicted: NDArray[np.float64]
    passes: NDArray[np.float64]
    one_by_one: NDArray[np.float64]
    num_costs: int
    built: float
    each: float
    whole: float

    @property
    def measured(self) -> NDArray[np.float64]:
        return self.passes.mean(0)


def network(subject: str) -> Architecture:
    """A teacher from its name and its images' side, as in "resnet18:32"."""
    name, side = subject.split(":")
    channels = 1 if side == "8" else 3
    images = Task("images", (channels, int(side), int(side)), 10, dict)
    return teacher_architecture(name, images)


def agreement(one: NDArray[np.float64], other: NDArray[np.float64]) -> str:
    errors = np.abs(one / other - 1)
    tau = kendalltau(one, other).statistic
    return f"{np.median(errors):8.1%}{np.quantile(errors, 0.9):8.1%}{tau:8.3f}"


def measure(subject: str, count: int) -> Found:
    teacher, latency = network(subject), Latency()
    started = time.perf_counter()
    table = latency_table(teacher, latency)
    built = time.perf_counter() - started
    random, blocks, large = map(len, np.array_split(range(count), len(GROUPS)))
    students = [
        *random_students(teacher, random, SEED),
        *students_in_blocks(teacher, blocks, block=BLOCK, seed=SEED),
        *large_students(teacher, large),
    ]
    started = time.perf_counter()
    predicted = np.array([table.ratio(student) for student in students])
    each = 1e3 * (time.perf_counter() - started) / count
    files = {network: onnx_file(network) for network in (teacher, *students)}
    passes = [
        time_students(
            teacher, students, latency, seconds=SECONDS, write=files.__getitem__
        )
        for _ in range(2)
    ]
    whole = latency(teacher, teacher)
    one_by_one = np.array([latency(student, teacher) / whole for student in students])
    return Found(
        subject,
        predicted,
        np.array(passes),
        one_by_one,
        len(table.costs),
        built,
        each,
        whole,
    )


def large_students(teacher: Architecture, count: int) -> list[Architecture]:
    """Students in blocks of channels with at least ``LARGE`` of the teacher's MACs."""
    students = students_in_blocks(teacher, 20 * count, block=BLOCK, seed=SEED + 1)
    large = [each for each in students if each.num_macs >= LARGE * teacher.num_macs]
    assert len(large) >= count
    return large[:count]


def plain(width: int) -> Architecture:
    """A network of five 3x3 convolutions with this many channels each."""
    layers: list[nn.Module] = []
    for inputs in (3, *[width] * 4):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return trace(nn.Sequential(*layers), (3, 32, 32))


def show_blocks() -> None:
    """Print the cost of a partly filled block of channels."""
    full, part = (plain(width) for width in (2 * BLOCK, 2 * BLOCK - 1))
    runs = [runner(onnx_file(each), each, Latency()) for each in (full, part)]
    timing = time_in_turns(runs)[1]
    print(
        f"five 3x3 convolutions of {2 * BLOCK - 1} channels take {timing.ratio:.2f} "
        f"times as long as of {2 * BLOCK}"
    )


def show(found: Found) -> None:
    measured, (one, two) = found.measured, found.passes
    groups = zip(
        GROUPS, np.array_split(np.arange(len(measured)), len(GROUPS)), strict=True
    )
    large = measured >= LARGE
    for what, pair in {
        "predicted, mean of both passes": (found.predicted, measured),
        **{name: (found.predicted[own], measured[own]) for name, own in groups},
        f"{large.sum()} students of 1/20 and more": (
            found.predicted[large],
            measured[large],
        ),
        "one pass, the other": (one, two),
        "predicted, one by one": (found.predicted, found.one_by_one),
        "mean of both passes, one by one": (measured, found.one_by_one),
    }.items():
        print(f"{found.subject:18}{what:34}{agreement(*pair)}")
    low, middle, high = np.quantile(measured, (0, 0.5, 1))
    print(
        f"{'':18}{found.num_costs} costs in {found.built:.0f} s, a prediction in "
        f"{found.each:.0f} ms; teacher {found.whole:.2f} ms, students {low:.3f} to "
        f"{high:.3f} of it, median {middle:.3f}",
        flush=True,
    )


def draw(found: list[Found], path: Path) -> None:
    """Plot predicted against measured latency, on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5))
    for each in found:
        name, side = each.subject.split(":")
        label = f"{name}, {side}x{side}"
        axes.plot(each.measured, each.predicted, "o", markersize=4, label=label)
    ends = (
        min(min(each.measured.min(), each.predicted.min()) for each in found) / 1.2,
        max(max(each.measured.max(), each.predicted.max()) for each in found) * 1.2,
    )
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.fill_between(
        ends,
        [0.95 * x for x in ends],
        [1.05 * x for x in ends],
        color="grey",
        alpha=0.25,
        label="within 5 %",
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=ends,
        ylim=ends,
        xlabel="measured latency, of the teacher's",
        ylabel="predicted",
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS))
    parser.add_argument("--students", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("runs/latency"))
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    results = Results(options.output, "subject")
    print(f"onnxruntime {onnxruntime.__version__}, one thread of {processor()}")
    show_blocks()
    print(f"{'':52}{'median':>8}{'90 %':>8}{'tau':>8}")
    everything = []
    for subject in options.subjects:
        if (subject,) not in results.read():
            found = measure(subject, options.students)
            results.add(
                **{
                    name: value.tolist() if isinstance(value, np.ndarray) else value
                    for name, value in found._asdict().items()
                }
            )
        line = results.read()[subject,]
        found = Found(
            **{
                name: np.array(value) if isinstance(value, list) else value
                for name, value in line.items()
            }
        )
        show(found)
        everything.append(found)
    if options.plot is not None:
        draw(everything, options.plot)


if __name__ == "__main__":
    main()
