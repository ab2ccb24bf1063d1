"""How many published convolutional networks can be teachers.

    python -m benchmarks.coverage --output benchmarks/data/coverage/results.jsonl

Needs timm and pytorchcv. Goes through the networks of timm and pytorchcv that a file
lists, and through all of torchvision's. Each is made without trained weights and
traced. The trace is compared with the module: by the logits of two random images in
float32, with random statistics and scales of normalisation. If the logits are not equal
to the last bit, the comparison is repeated in float64, with a tolerance of 1e-9 of the
largest logit. Then five random legal students are built and run on the meta device, and
torch counts their parameters and multiply-accumulates. A line of JSON is written for
each network, with the CPU seconds of the trace and of its check. After a stop, the same
command resumes. --again repeats networks with a given outcome; --show prints a summary
of all.

    exact       traced; the same logits; five students built, with correct counts
    refused     a TraceError, with its reason
    wrong       traced, but with other logits, or with a wrong student
    raw         any other exception
    unmade      the library itself cannot make the network
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.counting import miscounted
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    removals,
    shrink,
    shrinkages,
    without,
)
from n2n_gym.networks.layers import Shape
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import TraceError, trace

NAMES = Path(__file__).parent / "data" / "coverage" / "networks.txt"
PACKAGES = sysconfig.get_paths()["purelib"] + "/"  # where packages are on this machine
LIBRARIES = ("timm", "pytorchcv", "torchvision")
OUTCOMES = ("exact", "refused", "wrong", "raw", "unmade")
STUDENTS = 5
TOLERANCE = 1e-9  # in float64, relative to the largest logit


class Made(NamedTuple):
    """A network, and the image size that its library made it for."""

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
    """Library and name of each network: those that a file lists, then torchvision's.

    Args:
        path: A file with one name per line. A line that starts with # names the library
            of the lines after it.
    """
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
    """The result of one network, as a line of the output."""
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
    start = time.process_time()
    architecture = trace(module, image)
    seconds = time.process_time() - start
    drawn(module)
    far, precision = compared(module, build(architecture), image)
    found = removals(architecture)
    smaller = shrinkages(architecture)
    line: dict[str, Any] = {
        "image": image,
        "trace_seconds": round(seconds, 1),
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
    """Give normalisations random statistics and scales."""
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
    """The largest difference between two networks' logits, and its precision.

    The difference is relative to the largest logit. It is measured in float64 if the
    logits in float32 are not equal.

    Args:
        network: The network that the module's trace was built into.
    """
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
    """The function that the module applies to its logits: softmax, its log, or none."""
    ones = torch.ones(len(expected), dtype=expected.dtype)
    if torch.allclose(expected.sum(1), ones) and bool((expected >= 0).all()):
        return lambda logits: logits.softmax(1)
    if torch.allclose(expected.exp().sum(1), ones):
        return lambda logits: logits.log_softmax(1)
    return lambda logits: logits


def student_of(
    start: Architecture, found: tuple[Removal, ...], seed: int
) -> Architecture:
    """A student of random legal removals and random rates of widths and kernels."""
    choose = random.Random(seed)
    chance = choose.random()
    student = without(start, [each for each in found if choose.random() < chance])
    chance = choose.random()
    smaller = [s for s in shrinkages(student) if choose.random() < chance]
    return shrink(student, {s: choose.choice(RATES) for s in smaller})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=Path, default=NAMES)
    parser.add_argument("--output", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--library", choices=LIBRARIES, help="only this one")
    parser.add_argument("--only", nargs="*", help="only networks of these names")
    parser.add_argument("--again", nargs="*", default=[], help="these outcomes again")
    parser.add_argument("--show", action="store_true", help="the table alone")
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
    if chosen.show:
        print(table([lines[key] for key in wanted if key in lines]))
        return
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
    print(table(list(lines.values())))


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Outcomes by library, the reasons of refusals, and the slowest traces."""
    rows = ["| | " + " | ".join(OUTCOMES) + " | all |", "|---" * 7 + "|"]
    for library in LIBRARIES:
        counts = Counter(x["outcome"] for x in lines if x["library"] == library)
        cells = [str(counts[outcome]) for outcome in OUTCOMES]
        rows.append(f"| {library} | {' | '.join(cells)} | {counts.total()} |")
    rows += ["", "| refused for | " + " | ".join(LIBRARIES) + " |", "|---" * 4 + "|"]
    reasons = {
        library: Counter(
            kind_of(str(x["reason"]))
            for x in lines
            if x["outcome"] == "refused" and x["library"] == library
        )
        for library in LIBRARIES
    }
    total = sum(reasons.values(), Counter())
    for reason in sorted(total, key=lambda each: (-total[each], each)):
        counts = [str(reasons[library][reason] or "") for library in LIBRARIES]
        rows.append(f"| {reason} | {' | '.join(counts)} |")
    rows.append("")
    for library in LIBRARIES:
        timed = [x for x in lines if x["library"] == library and "trace_seconds" in x]
        if timed:
            slowest = max(timed, key=lambda x: x["trace_seconds"])
            rows.append(
                f"Slowest trace and check of {library}, of {len(timed)} timed: "
                f"{slowest['trace_seconds']} s, {slowest['name']}."
            )
    return "\n".join(rows)


def kind_of(reason: str) -> str:
    """The reason of a refusal, without the network's own names and shapes."""
    reason = reason.partition(", at ")[0]
    node, colon, why = reason.partition("): ")
    if "supported functions are" in reason or "supported modules are" in reason:
        return "`" + re.sub(r".*(?:call \w+|type) (\w+).*", r"\1", reason[:200]) + "`"
    why = why if colon else node.partition(": ")[2] or reason
    why = re.sub(r", not turn .*", "", why)
    return re.sub(r"[\w.]+ and [\w.]+ are one tensor: ", "", why)


if __name__ == "__main__":
    main()
