"""Random students of many teachers: can every legal one be built, with correct counts?

    python -m benchmarks.random_edits --sequences 100000 --output random_edits.jsonl

Plays random legal removals and then random shrinkages. After each removal and at the
end it checks that neither parameters nor MACs grow. The exception is granularity
``layer``: a removed max pool can increase MACs. One student in eighteen is built on the
meta device, and torch counts its parameters and multiply-accumulates. A line is written
for each hundred sequences; after a stop, the same command resumes. A failure is printed
with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.counting import miscounted
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    GRANULARITIES,
    RATES,
    Removal,
    legal_removal,
    removals,
    remove,
    shrink,
    shrinkages,
)
from n2n_gym.networks.layers import Shape, ShapeError
from n2n_gym.pytorch.trace import translate
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.from_timm import is_timm, untrained
from n2n_gym.teachers.zoo import teacher_architecture
from tests.networks import (
    IMAGE,
    DealtNet,
    GroupNormNet,
    MixedNet,
    PaddedNet,
    ScaledNet,
    VariedNet,
)

FAMILIES = {
    "AlexNet": ("alexnet",),
    "VGG": ("vgg11_bn", "vgg16", "vgg19_bn"),
    "ResNet": ("resnet18", "resnet34", "resnet50"),
    "ResNeXt": ("resnext50_32x4d",),
    "Wide ResNet": ("wide_resnet50_2",),
    "DenseNet": ("densenet121",),
    "GoogLeNet": ("googlenet",),
    "Inception": ("inception_v3",),
    "MobileNetV2": ("mobilenet_v2",),
    "MobileNetV3": ("mobilenet_v3_small", "mobilenet_v3_large"),
    "MNASNet": ("mnasnet0_5", "mnasnet1_3"),
    "EfficientNet": ("efficientnet_b0", "efficientnet_b2"),
    "EfficientNetV2": ("efficientnet_v2_s",),
    "RegNet": ("regnet_x_400mf", "regnet_y_400mf", "regnet_y_800mf"),
    "SqueezeNet": ("squeezenet1_0", "squeezenet1_1"),
    "ConvNeXt": ("convnext_tiny",),
    "ShuffleNetV2": ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    "ResNet for CIFAR": ("resnet20", "resnet56"),
    "FastViT": ("timm:fastvit_t8",),
    "HRNet": ("timm:hrnet_w18_small",),
    "InceptionNeXt": ("timm:inception_next_atto",),
    "RepVGG": ("timm:repvgg_a0",),
    "ReXNet": ("timm:rexnetr_100",),
    "StarNet": ("timm:starnet_s1",),
    # Together they have every kind of layer.
    "of the tests": (
        *(VariedNet, MixedNet, PaddedNet),
        *(GroupNormNet, ScaledNet, DealtNet),
    ),
}
TEACHERS = tuple(name for names in FAMILIES.values() for name in names)
IMAGES = ((1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64))
LARGE = (IMAGES[-1],)  # timm's networks are not adapted to smaller images
BLOCK = 100  # sequences for each line of the output
BUILT = 18  # the student of one in so many sequences is built


Subject = str | type[nn.Module]  # a teacher: its name, or a network of the tests


class Outcome(NamedTuple):
    """The result of a random sequence."""

    teacher: str
    num_decisions: int
    compression: float  # how many times smaller
    was_built: bool
    failure: str  # empty if there is none


@cache
def start_of(teacher: Subject, image: Shape) -> Architecture:
    if not isinstance(teacher, str):
        return translate(teacher(), image)
    if is_timm(teacher):
        return translate(untrained(teacher, 10, image[0]), image)
    return teacher_architecture(teacher, Task("none", image, 10, dict))


def images_of(teacher: Subject) -> tuple[Shape, ...]:
    if isinstance(teacher, str):
        return LARGE if is_timm(teacher) else IMAGES
    return (IMAGE,)


@cache
def removals_of(
    teacher: Subject, image: Shape, granularity: str
) -> tuple[Removal, ...]:
    return removals(start_of(teacher, image), granularity)


def play(seed: int, *, is_built: bool) -> Outcome:
    """One random sequence, determined by its seed."""
    choose = random.Random(seed)
    teacher = TEACHERS[seed % len(TEACHERS)]
    name = teacher if isinstance(teacher, str) else teacher.__name__
    image = choose.choice(images_of(teacher))
    granularity = choose.choice(("unit", "unit", *GRANULARITIES))
    start = start_of(teacher, image)
    found = removals_of(teacher, image, granularity)
    try:
        student, taken, grows = _removed(start, found, choose)
        shrunk, num_rates = _shrunk(student, choose)
        grows |= shrunk.num_params > student.num_params
        grows |= shrunk.num_macs > student.num_macs
        failure = "grew" if grows else miscounted(shrunk) if is_built else ""
    except (ShapeError, RuntimeError) as error:
        return Outcome(name, 0, 1.0, is_built, f"unbuildable: {error}")
    times = start.num_params / shrunk.num_params
    return Outcome(name, taken + num_rates, times, is_built, failure)


def _removed(
    start: Architecture, found: tuple[Removal, ...], choose: random.Random
) -> tuple[Architecture, int, bool]:
    """Legal removals, each made with the same probability.

    Returns the student, the number of removals, and whether anything grew.
    """
    grew = False
    chance = choose.random()
    taken: list[Removal] = []
    left = start.rewire(frozenset(), frozenset())
    for removal in found:
        if choose.random() < chance:
            wiring = legal_removal(start, taken, left, removal)
            if wiring is not None:
                grew |= wiring.num_params > left.num_params
                grew |= removal.must_save and wiring.num_macs > left.num_macs
                taken.append(removal)
                left = wiring
    student = remove(start, taken)
    assert (student.num_params, student.num_macs) == (left.num_params, left.num_macs)
    return student, len(taken), grew


def _shrunk(student: Architecture, choose: random.Random) -> tuple[Architecture, int]:
    """Shrinkages at random rates, each made with the same probability."""
    chance = choose.random()
    found = [s for s in shrinkages(student) if choose.random() < chance]
    return shrink(student, {s: choose.choice(RATES) for s in found}), len(found)


def play_block(number: int) -> dict[str, Any]:
    """A line of the output, for the sequences from number * BLOCK on."""
    torch.set_num_threads(1)
    seeds = range(number * BLOCK, (number + 1) * BLOCK)
    # Teachers come in turn, so the students to build are picked at random.
    built = {s for s in seeds if random.Random(f"build {s}").random() < 1 / BUILT}
    outcomes = {seed: play(seed, is_built=seed in built) for seed in seeds}
    return {
        "block": number,
        "decisions": sum(o.num_decisions for o in outcomes.values()),
        "built": len(built),
        "teachers": Counter(o.teacher for o in outcomes.values()),
        "largest_compression": max(o.compression for o in outcomes.values()),
        "failures": {s: o.failure for s, o in outcomes.items() if o.failure},
    }


def _finished(output: Path) -> list[dict[str, Any]]:
    """The complete lines of an earlier run."""
    if not output.exists():
        return []
    text = output.read_text()
    whole, newline, _ = text.rpartition("\n")
    output.write_text(whole + newline)
    return [json.loads(line) for line in whole.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=Path("random_edits.jsonl"))
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()

    lines = _finished(chosen.output)
    blocks = range(-(-chosen.sequences // BLOCK))
    done = {line["block"] for line in lines}
    todo = [block for block in blocks if block not in done]
    with (
        open(chosen.output, "a") as file,
        ProcessPoolExecutor(chosen.workers) as pool,
        tqdm(total=len(blocks) * BLOCK, initial=len(done) * BLOCK) as bar,
    ):
        for line in pool.map(play_block, todo):
            lines.append(line)
            file.write(json.dumps(line) + "\n")
            file.flush()
            bar.update(BLOCK)

    failures = {s: f for line in lines for s, f in line["failures"].items()}
    kinds = Counter(failure.split(":")[0] for failure in failures.values())
    teachers = sum((Counter(line["teachers"]) for line in lines), Counter())
    print(
        f"{len(lines) * BLOCK:,} sequences of {len(teachers)} teachers "
        f"({len(FAMILIES)} families), {sum(x['decisions'] for x in lines):,} "
        f"decisions, up to {max(x['largest_compression'] for x in lines):,.0f}x "
        f"smaller"
    )
    print(f"{sum(line['built'] for line in lines):,} built and counted by torch")
    for kind in ("unbuildable", "wrong logits", "wrong count", "grew"):
        print(f"{kind}: {kinds[kind]}")
    for seed, failure in failures.items():
        print(f"seed {seed}: {failure}")


if __name__ == "__main__":
    main()
