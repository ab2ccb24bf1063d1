"""How many of the convolutional networks that people have can be teachers.

    python -m benchmarks.coverage --output benchmarks/data/coverage/results.jsonl

Needs timm and pytorchcv. Goes through networks of both by name, and through all of
torchvision's. Each is made without trained weights and traced. What is traced is
compared with the module: logits of two random images in float32, with random statistics
and scales of normalisation; where these are not equal to the last bit, in float64,
within 1e-9 of the largest. Then five random legal students are built and run on the
meta device, and their parameters and multiply-accumulates counted by torch. A line of
JSON is written for each network; the same command goes on where it was stopped, and
--again repeats those that had a given outcome.

    exact       traced; the same logits; five students that exist and count right
    refused     a TraceError, with its reason
    wrong       traced, but it computes something else, or a student is wrong
    raw         any other exception
    unmade      the library itself cannot make the network
"""

from __future__ import annotations

import argparse
import json
import random
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    remove,
    shrink,
    shrinkages,
)
from n2n_gym.networks.layers import Shape
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import TraceError, trace

NAMES = Path(__file__).parent / "data" / "coverage" / "networks.txt"
PACKAGES = sysconfig.get_paths()["purelib"] + "/"  # where they are on this machine
LIBRARIES = ("timm", "pytorchcv", "torchvision")
STUDENTS = 5
TOLERANCE = 1e-9  # in float64, of the largest logit


class Made(NamedTuple):
    """A network and the images that its library made it for."""

    module: nn.Module
    image: Shape


def from_timm(name: str) -> Made:
    import timm

    module = timm.create_model(name, pretrained=False)
    size = module.pretrained_cfg.get("input_size", (3, 224, 224))
    return Made(module, tuple(size))


def from_pytorchcv(name: str) -> Made:
    from pytorchcv.model_provider import get_model

    module = get_model(name, pretrained=False)
    return Made(module, (3, *getattr(module, "in_size", (224, 224))))


def from_torchvision(name: str) -> Made:
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of other initial weights
        return Made(models.get_model(name, weights=None), (3, 224, 224))


MAKERS: dict[str, Callable[[str], Made]] = {
    "timm": from_timm,
    "pytorchcv": from_pytorchcv,
    "torchvision": from_torchvision,
}


def listed(path: Path) -> Iterator[tuple[str, str]]:
    """(library, name) of a file with a comment before each library's names."""
    from torchvision import models

    library = ""
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            library = line.removeprefix("#").split()[0]
        elif line:
            yield library, line
    for name in models.list_models(module=models):
        yield "torchvision", name


def examine(library: str, name: str) -> dict[str, Any]:
    """A line of the output."""
    start = time.perf_counter()
    line: dict[str, Any] = {"library": library, "name": name}
    torch.manual_seed(0)
    try:
        module, image = MAKERS[library](name)
    except Exception as error:
        return {**line, "outcome": "unmade", "reason": _said(error)}
    try:
        line |= _traced(module.eval(), image)
    except TraceError as error:
        reason = str(error).replace(PACKAGES, "")
        line |= {"outcome": "refused", "reason": reason}
    except Exception as error:
        line |= {"outcome": "raw", "reason": _said(error)}
    return {**line, "seconds": round(time.perf_counter() - start, 1)}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _traced(module: nn.Module, image: Shape) -> dict[str, Any]:
    architecture = trace(module, image)
    drawn(module)
    far, precision = compared(module, build(architecture), image)
    found = removals(architecture)
    smaller = shrinkages(architecture)
    line: dict[str, Any] = {
        "image": image,
        "num_params": architecture.num_params,
        "num_macs": architecture.num_macs,
        "removals": len(found),
        "widths": sum(each.variable == "width" for each in smaller),
        "kernels": sum(each.variable == "kernel" for each in smaller),
        "difference": far,
        "precision": precision,
    }
    students = [student_of(architecture, found, seed) for seed in range(STUDENTS)]
    line["students"] = [student.num_params for student in students]
    faults = [fault for student in students if (fault := miscounted(student))]
    if far > TOLERANCE:
        faults.append("it computes something else")
    return {**line, "outcome": "wrong" if faults else "exact", "reason": faults}


def drawn(module: nn.Module) -> None:
    """Give normalisations statistics and scales that do something."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        leaf = name.rpartition(".")[2]
        if leaf == "running_mean":
            tensor.data.normal_(0, 0.2, generator=generator)
        elif leaf == "running_var" or (tensor.dim() == 1 and leaf in _SCALES):
            tensor.data.uniform_(0.7, 1.4, generator=generator)
        elif tensor.dim() == 1 and leaf == "bias":
            tensor.data.normal_(0, 0.2, generator=generator)


_SCALES = ("weight", "gamma", "layer_scale", "scale")


@torch.no_grad()
def compared(module: nn.Module, network: nn.Module, image: Shape) -> tuple[float, str]:
    """How far the logits differ, of the largest, and in which precision that was."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    network.load_state_dict({k: tensors[k] for k in network.state_dict()}, assign=True)
    images = torch.randn(2, *image, generator=torch.Generator().manual_seed(1))
    far = 0.0
    for dtype in (torch.float32, torch.float64):
        module.to(dtype).eval(), network.to(dtype).eval()
        expected, found = (part(images.to(dtype)) for part in (module, network))
        if not bool(expected.isfinite().all()):
            return float("inf"), f"{dtype} (not finite)"
        difference = (expected - _head(expected)(found)).abs().max()
        far = float(difference / expected.abs().max())
        if far == 0:
            break
    return far, str(dtype).removeprefix("torch.")


def _head(expected: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the module does to its logits: a softmax, its logarithm or nothing."""
    ones = torch.ones(len(expected), dtype=expected.dtype)
    if torch.allclose(expected.sum(1), ones) and bool((expected >= 0).all()):
        return lambda logits: logits.softmax(1)
    if torch.allclose(expected.exp().sum(1), ones):
        return lambda logits: logits.log_softmax(1)
    return lambda logits: logits


def student_of(
    start: Architecture, found: tuple[Removal, ...], seed: int
) -> Architecture:
    """Random legal removals, then random rates of widths and kernels."""
    choose = random.Random(seed)
    chance, taken = choose.random(), []
    left = start.rewire(frozenset(), frozenset())
    for removal in found:
        if choose.random() < chance:
            wiring = legal_removal(start, taken, left, removal)
            if wiring is not None:
                taken.append(removal)
                left = wiring
    student = remove(start, taken)
    chance = choose.random()
    smaller = [s for s in shrinkages(student) if choose.random() < chance]
    return shrink(student, {s: choose.choice(RATES) for s in smaller})


def miscounted(student: Architecture) -> str:
    """How torch's counts differ from the architecture's, empty if they do not."""
    module = build(student, "meta").eval()
    num_params = sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        logits = module(torch.empty(1, *student.input_shape, device="meta"))
    num_macs = counter.get_total_flops() // 2
    if tuple(logits.shape) != (1, student.num_outputs):
        return f"wrong logits: {tuple(logits.shape)}"
    if (num_params, num_macs) != (student.num_params, student.num_macs):
        return (
            f"wrong count: torch has {num_params} parameters and {num_macs} MACs, "
            f"expected {student.num_params} and {student.num_macs}"
        )
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=Path, default=NAMES)
    parser.add_argument("--output", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--library", choices=LIBRARIES, help="only this one")
    parser.add_argument("--only", nargs="*", help="only networks of these names")
    parser.add_argument("--again", nargs="*", default=[], help="these outcomes again")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    lines: dict[tuple[str, str], dict[str, Any]] = {}
    if chosen.output.exists():
        whole = chosen.output.read_text().rpartition("\n")[0]
        for line in map(json.loads, whole.splitlines()):
            if line["outcome"] not in chosen.again:
                lines[line["library"], line["name"]] = line
    wanted = list(listed(chosen.names))
    kept = [line for key, line in lines.items() if key in set(wanted)]
    chosen.output.write_text("".join(json.dumps(line) + "\n" for line in kept))
    with open(chosen.output, "a") as file:
        for library, name in wanted:
            if (library, name) in lines or library != (chosen.library or library):
                continue
            if chosen.only and name not in chosen.only:
                continue
            lines[library, name] = line = examine(library, name)
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(library, name, line["outcome"], str(line["reason"])[:200], flush=True)
    for library in LIBRARIES:
        counts = Counter(
            line["outcome"] for (of, _), line in lines.items() if of == library
        )
        print(f"{library}: {sum(counts.values())} networks, {dict(counts)}")


if __name__ == "__main__":
    main()
