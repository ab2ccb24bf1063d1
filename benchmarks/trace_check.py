"""The cost of checking a trace, and whether torchvision's networks all pass.

    python benchmarks/trace_check.py --repeats 5

Traces the ten largest networks of docs/teachers.md like modules of a user: with
weights, for 224x224 images. Each is traced several times with the comparison of logits
and several times without it. Prints both median times, in CPU seconds of one thread.
Then checks all networks that can be teachers and prints refusals and warnings.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from n2n_gym.pytorch.trace import TraceError, trace, translate
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import (
    MADE_FOR,
    teacher_architecture,
    torchvision_network,
    traceable_names,
)

LARGEST = 10


def network(name: str) -> nn.Module:
    """A network with weights in memory; their values make no difference."""
    return torchvision_network(name, 10).to_empty(device="cpu")


def seconds(trace_it: Callable[..., object], module: nn.Module) -> float:
    gc.collect()
    start = time.process_time()
    trace_it(module, MADE_FOR)
    return time.process_time() - start


def compare(name: str, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of a trace without its check, and with it."""
    module = network(name)
    trace(module, MADE_FOR)  # not timed, because the first call is slower
    times = [
        (seconds(translate, module), seconds(trace, module)) for _ in range(repeats)
    ]
    without, both = zip(*times, strict=True)
    return statistics.median(without), statistics.median(both)


def outcome(name: str) -> str:
    """The refusal or the warnings of a trace; empty if there are none."""
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("n2n_gym.pytorch.check")
    logger.addHandler(listener)
    try:
        trace(torchvision_network(name, 10), MADE_FOR)
    except TraceError as error:
        return f"refused: {error}"
    finally:
        logger.removeHandler(listener)
    return "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)

    names = traceable_names()
    task = Task("none", (3, 32, 32), 10, dict)
    sizes = {name: teacher_architecture(name, task).num_params for name in names}
    largest = sorted(names, key=sizes.__getitem__, reverse=True)[:LARGEST]
    print("| name | parameters | trace | trace and check | check / trace |")
    print("|---|---:|---:|---:|---:|")
    for name in largest:
        without, both = compare(name, repeats)
        print(
            f"| `{name}` | {sizes[name] / 1e6:.1f} M | {without:.2f} s | {both:.2f} s "
            f"| {both / without - 1:.2f} |",
            flush=True,
        )
    outcomes = {name: outcome(name) for name in names}
    refused = [name for name in names if outcomes[name].startswith("refused")]
    print(f"{len(names) - len(refused)} of {len(names)} pass the check")
    for name, words in outcomes.items():
        if words:
            print(f"{name}: {words}")


if __name__ == "__main__":
    main()
