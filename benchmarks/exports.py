"""Exported files compared with torch: random students of ten families.

    python -m benchmarks.exports            # some ten minutes of one core

Each family's teacher is trained on digits (and stored in the cache). Five random
students of each teacher, with at least a fiftieth of its parameters, inherit its
weights and are distilled for as many epochs as the teacher was trained. They are
exported in float32 and in 8-bit integers. On the whole test split, the logits of ONNX
Runtime are compared with torch's. Torch's logits in single precision are also compared
with torch's in double precision, to tell rounding from mistakes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.export.formats import CALIBRATED_BY, Exported, load_model, write_int8
from n2n_gym.export.onnx import FromPixels, export_onnx, rounding
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.random_students import random_students
from n2n_gym.pytorch.build import Network
from n2n_gym.resources.machine import processor
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

FAMILIES = (
    "alexnet",
    "densenet121",
    "efficientnet_b0",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vgg11_bn",
)
SMALLEST = 50  # a student has at least 1 / 50 of the teacher's parameters
DRAWN = 20  # random students drawn for each one that is used
CPU = torch.device("cpu")


class Compared(NamedTuple):
    """One student's exported files, compared with torch.

    Attributes:
        difference: Largest difference between logits of the float32 file and of torch.
        rounding: Largest difference between logits of torch in single and in double
            precision.
        differ: Number of images that the float32 file and torch classify differently.
        accuracy, int8: Test accuracy of the float32 file and of the 8-bit file.
        bytes, int8_bytes: Sizes of the two files.
    """

    num_params: int
    difference: float
    rounding: float
    differ: int
    accuracy: float
    int8: float
    bytes: int
    int8_bytes: int


def logits_of(path: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return load_model(path)(pixels)


def compare(network: Network, teacher: Teacher, folder: Path) -> Compared:
    """Compare a student's float32 file and 8-bit file with torch, on the test split."""
    train, test = (teacher.task.splits[name] for name in ("train", "test"))
    path, small = folder / "student.onnx", folder / "int8.onnx"
    export_onnx(network, teacher.normalise, test.images[:16], path, {})
    images = train.images[:CALIBRATED_BY]
    write_int8(Exported(network, teacher.normalise, path, images), small)
    pixels = test.images.float() / 255
    module = FromPixels(network, teacher.normalise).eval()
    with torch.no_grad():
        expected = module(pixels).numpy()
    labels = test.labels.numpy()
    exact, rough = (logits_of(each, pixels.numpy()) for each in (path, small))
    return Compared(
        sum(weights.numel() for weights in network.parameters()),
        float(np.abs(exact - expected).max()),
        rounding(module, pixels),
        int((exact.argmax(1) != expected.argmax(1)).sum()),
        float((exact.argmax(1) == labels).mean()),
        float((rough.argmax(1) == labels).mean()),
        path.stat().st_size,
        small.stat().st_size,
    )


def some_students(teacher: Teacher, count: int) -> list[Architecture]:
    """Random students, without those that are too small to learn anything."""
    whole = teacher.architecture
    found = random_students(whole, DRAWN * count)
    large = [s for s in found if SMALLEST * s.num_params >= whole.num_params]
    assert len(large) >= count, f"{teacher.name}: draw more than {DRAWN} a student"
    return large[:count]


def measure(family: str, *, epochs: int, count: int) -> list[Compared]:
    teacher = load_teacher(family, "digits", device=CPU, epochs=epochs)
    evaluator = DistillationEvaluator(FULL.with_epochs(epochs), device=CPU)
    found = []
    for student in tqdm(some_students(teacher, count), desc=family):
        network = evaluator.network(student, teacher).eval()
        with tempfile.TemporaryDirectory() as folder:
            found.append(compare(network, teacher, Path(folder)))
    return found


def row(family: str, found: Sequence[Compared]) -> str:
    sizes = [each.num_params for each in found]
    lost = [each.accuracy - each.int8 for each in found]
    cells = (
        family,
        f"{min(sizes):,} to {max(sizes):,}",
        f"{max(each.difference for each in found):.1e}",
        f"{max(each.rounding for each in found):.1e}",
        str(sum(each.differ for each in found)),
        f"{mean(each.accuracy for each in found):.2%}",
        f"{mean(each.int8 for each in found):.2%}",
        f"{max(lost):.2%}",
        f"{mean(each.bytes / each.int8_bytes for each in found):.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--students", type=int, default=5, help="of each family")
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, "
        f"{processor()}\n"
    )
    heads = ("family", "parameters", "logits differ by", "torch's from float64's")
    heads += ("answers that differ", "float32", "int8", "largest loss by int8")
    heads += ("times smaller",)
    print(f"| {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) - 2)}")
    everything = []
    for family in options.families:
        found = measure(family, epochs=options.epochs, count=options.students)
        everything += found
        print(row(family, found), flush=True)
    print(row("all", everything))


if __name__ == "__main__":
    main()
