"""The subject of the comparison: a teacher, its images, and the targets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from n2n_gym.common.files import locked, write_whole
from n2n_gym.limits.requirements import Requirements
from n2n_gym.resources import Latency, Meter, load_meter
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

# Each limit is the teacher's own amount, divided by this.
TARGETS: Final[Mapping[str, Mapping[str, float]]] = {
    "params/5": {"num_params": 5},
    "params/10": {"num_params": 10},
    "latency/5": {"latency_ms": 5},
    "params+macs/10": {"num_params": 10, "num_macs": 10},
}
MEASURED: Final = ("num_params", "num_macs", "latency_ms")
TEACHER: Final = "teacher.safetensors"
SUBJECT: Final = "subject.json"
RESOURCES: Final = "resources.json"
AT_MOST: Final = 5  # differences that an error names
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A teacher, with its images and measurements, which are equal for all methods.

    Attributes:
        name, task, weights: The teacher, the task and the weights as `n2n-gym compress`
            takes them.
        output: Folder of the results, weights and measurements.
        meter: Meter of parameters, multiply-accumulates and latency; it measures each
            network once.
    """

    name: str
    task: str
    weights: Path
    output: Path
    teacher: Teacher
    meter: Meter

    def requirements(self, target: str) -> Requirements:
        """The limits of a target, a key of ``TARGETS``."""
        start = self.teacher.architecture
        shares = TARGETS[target]
        whole = self.meter(start, start)
        bounds = {name: whole[name] / share for name, share in shares.items()}
        bounds |= {n: int(x) for n, x in bounds.items() if n != "latency_ms"}
        found = Requirements.read(start, bounds)
        if "latency_ms" in bounds:  # the same clock for all, and known measurements
            found = replace(found, meter=self.meter)
        return found


def task_of(images: int) -> str:
    """CIFAR-10 with this many training images, equally many of each class."""
    return f"cifar10:0-9:{images}"


def load_subject(
    name: str,
    task: str,
    output: Path,
    *,
    weights: Path | None = None,
    epochs: int | None = None,
    precision: str | None = None,
) -> Subject:
    """Load the subject; without given weights, the first call trains the teacher.

    Args:
        name: Name of the teacher.
        task: Name of the task.
        weights: File of the teacher's weights; by default the one in the output folder.
        epochs: Epochs of the teacher's training; the default depends on the task.
        precision: Precision of the training and the logits; by default the faster one
            on this machine.

    """
    path = weights or output / TEACHER
    meter = load_meter(MEASURED)
    latency = meter.functions["latency_ms"]
    assert isinstance(latency, Latency)
    with locked(output / TEACHER):  # a second process waits for the first
        if not path.exists() and weights is None:
            trained = load_teacher(
                name, task, epochs=epochs, precision=precision, device="cpu"
            ).weights
            whole = {key: tensor.contiguous() for key, tensor in trained.items()}
            part = path.with_suffix(".part")
            save_file(whole, part)
            part.replace(path)
        teacher = load_teacher(
            name, task, weights=path, precision=precision, device="cpu"
        )
        start = teacher.architecture
        meter.keep_in(output / RESOURCES)
        latency.remember(start, meter(start, start)["latency_ms"])
    return Subject(name, task, path, output, teacher, meter)


def check_alone(folder: Path, said: Mapping[str, Any]) -> None:
    """Store the settings of a folder's results, or compare them with the stored ones.

    Args:
        said: Settings of subject, search and tuning, and what the results are made
            with, as plain values.

    Raises:
        ValueError: The folder has results with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SUBJECT
    if not path.exists():
        write_whole(path, json.dumps(said).encode())
    kept = json.loads(path.read_text())
    before, now = dict(_flat(kept)), dict(_flat(json.loads(json.dumps(said))))
    changed = [
        f"{name}={before.get(name)!r}, got {now.get(name)!r}"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    ]
    if changed:
        named = "; ".join(changed[:AT_MOST])
        more = f"; {len(changed) - AT_MOST} more" if len(changed) > AT_MOST else ""
        raise ValueError(
            f"{folder} has results of {named}{more}; give another --output"
        )


def _flat(values: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Values with their names; those in a mapping have its name in front."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value
