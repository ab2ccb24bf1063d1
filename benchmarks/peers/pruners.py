"""The methods: from a teacher and a target to a smaller network with its weights.

Torch-Pruning (Fang et al., 2023) prunes in small steps, with all layers ranked
together. The student is the network after the first step that brings it within the
target. All methods have the same limits, with the same margin for latency. None changes
a width that n2n-gym cannot shrink.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.networks import module_of, thinned
from benchmarks.peers.subject import CPU, Subject
from n2n_gym.limits.fitting import widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrinkages
from n2n_gym.networks.scaling import OutOfReach
from n2n_gym.pytorch.inference import compute_accuracy
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.split import Split

OURS: Final = "ours"
STEPS: Final = 200  # of Torch-Pruning, from the teacher to one channel per layer
CHUNK: Final = 10  # steps between two checks of the limits
BATCHES: Final = 2  # of training images, for Taylor's gradients at each step
BATCH_SIZE: Final = 128
SCORED: Final = 1_000  # validation images of one score, for FastNAS
DIVISOR: Final = 4  # of FastNAS's widths; its default, 32, is too large here
UNSATISFIED: Final = "NOT all constraints can be satisfied"  # FastNAS's error
ADVICE: Final = {
    "torch_pruning": 'Torch-Pruning is missing: pip install "n2n-gym[peers]"',
    "modelopt": 'ModelOpt is missing: pip install "n2n-gym[peers]"',
}


class Pruned(NamedTuple):
    """A student and the weights that its tuning starts from."""

    student: Architecture
    weights: Mapping[str, Tensor]


def uniform(subject: Subject, limits: Requirements, seed: int) -> Pruned:
    """All widths at one rate, with the teacher's channels of largest norm."""

    def widest(block: int) -> Pruned:
        student = widest_uniform(limits, block)
        network = subject.teacher.inheritance(CPU).build(student)
        return Pruned(student, network.state_dict())

    return largest(limits, widest)


def largest(limits: Requirements, make: Callable[[int], Pruned]) -> Pruned:
    """The student with more MACs of those with any widths and with widths in blocks.

    The second student is made only if whole blocks of channels are faster.

    Args:
        make: Function of the number of channels in a block.

    Raises:
        OutOfReach: Neither keeps the limits.
    """
    found: list[Pruned] = []
    errors: list[str] = []
    for block in dict.fromkeys((1, limits.block)):
        try:
            found.append(make(block))
        except OutOfReach as error:
            errors.append(str(error))
    if not found:
        raise OutOfReach("; ".join(dict.fromkeys(errors)))
    return max(found, key=lambda each: each.student.num_macs)


def magnitude(subject: Subject, limits: Requirements, seed: int) -> Pruned:
    """Torch-Pruning with the L2 norms of each group of tied channels."""
    import torch_pruning as tp

    importance = tp.importance.GroupMagnitudeImportance()
    return _stepped(subject, limits, importance, lambda module: None)


def taylor(subject: Subject, limits: Requirements, seed: int) -> Pruned:
    """Torch-Pruning with |weight * gradient| (Molchanov et al., 2019).

    The gradients are those of the cross-entropy, on training images that are drawn anew
    for each step.
    """
    import torch_pruning as tp

    teacher = subject.teacher
    split = teacher.task.split("train", CPU)
    generator = torch.Generator()

    def begin() -> None:
        generator.manual_seed(seed)

    def prepare(module: nn.Module) -> None:
        # Batch statistics, because the teacher's do not fit the pruned network.
        module.train().zero_grad()
        order = torch.randperm(len(split), generator=generator)
        for images, labels, _ in islice(split.batches(BATCH_SIZE, order), BATCHES):
            with thinned(module):
                F.cross_entropy(module(teacher.normalise(images)), labels).backward()
        module.eval()

    importance = tp.importance.GroupTaylorImportance()
    return _stepped(subject, limits, importance, prepare, begin)


def _stepped(
    subject: Subject,
    limits: Requirements,
    importance: Any,
    prepare: Callable[[nn.Module], None],
    begin: Callable[[], object] = lambda: None,
) -> Pruned:
    """The first student within the limits, with any widths or with widths in blocks.

    Args:
        prepare: Called with the module before each step.
        begin: Called before the first step.
    """
    teacher = subject.teacher
    start = teacher.architecture

    def pruned(block: int) -> Pruned:
        begin()
        module = module_of(subject.name, teacher.task, teacher.weights)
        steps = pruning_steps(module, start, importance, prepare, block=block)
        return as_pruned(first_within(steps, limits), start)

    return largest(limits, pruned)


def pruning_steps(
    module: nn.Module,
    start: Architecture,
    importance: Any,
    prepare: Callable[[nn.Module], None],
    steps: int = STEPS,
    block: int = 1,
) -> Iterator[nn.Module]:
    """The module after each step of Torch-Pruning, which changes it in place.

    Args:
        start: The module's architecture. Layers that n2n-gym cannot narrow keep their
            width.
        prepare: Called with the module before each step, to compute gradients.
        block: Number of channels in a block; pruned widths are multiples of it. Layers
            no wider than a block may get any width.
    """
    import torch_pruning as tp

    groups = shrinkages(start, ("width",))
    narrowed = {start.layers[p].name for group in groups for p in group.layers}
    kept = [
        part
        for name, part in module.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear)) and name not in narrowed
    ]

    class InBlocks(tp.pruner.BasePruner):
        """Torch-Pruning alone never narrows a layer that is no wider than a block."""

        def _round_to(self, num_pruned: int, width: int, block: int) -> int:
            if width <= block:
                return num_pruned  # any width, as for the other methods
            rounded: int = super()._round_to(num_pruned, width, block)
            return min(rounded, width - block)

    pruner = InBlocks(
        module,
        torch.zeros(1, *start.input_shape),
        importance,
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=steps,
        ignored_layers=kept,
        round_to=block if block > 1 else None,
    )
    for _ in range(steps):
        prepare(module)
        pruner.step()
        yield module


def first_within(steps: Iterator[nn.Module], limits: Requirements) -> nn.Module:
    """The first of ever smaller modules that keeps the limits.

    Limits are checked after every ``CHUNK`` steps, then by bisection between two
    checks, because measuring a latency takes seconds.

    Raises:
        OutOfReach: No module keeps the limits.
    """
    input_shape = limits.teacher.input_shape

    def keeps(module: nn.Module) -> bool:
        return limits.keeps(trace(module, input_shape))

    while chunk := [copy.deepcopy(module) for module in islice(steps, CHUNK)]:
        if keeps(chunk[-1]):
            return chunk[bisect_left(chunk, True, hi=len(chunk) - 1, key=keeps)]
    raise OutOfReach(f"no step of the pruner keeps {dict(limits.bounds)}")


def as_pruned(module: nn.Module, start: Architecture) -> Pruned:
    """A pruned module as an architecture and weights, for images like the teacher's."""
    student = trace(module, start.input_shape)
    weights = {key: value.detach() for key, value in module.state_dict().items()}
    return Pruned(student, weights)


def fastnas(subject: Subject, limits: Requirements, seed: int) -> Pruned:
    """NVIDIA ModelOpt's FastNAS, with validation accuracy as its score.

    FastNAS takes only one limit; here it is the one on parameters. It measures how much
    accuracy each width of each layer costs; a checkpoint keeps these measurements.

    Raises:
        OutOfReach: FastNAS has no student that keeps the limits.
    """
    import modelopt.torch.prune as mtp

    teacher = subject.teacher
    module = module_of(subject.name, teacher.task, teacher.weights)
    config = mtp.fastnas.FastNASConfig()
    config["nn.Conv2d"]["*"]["channel_divisor"] = DIVISOR
    config["nn.BatchNorm2d"]["*"]["feature_divisor"] = DIVISOR
    whole = teacher.task.split("validation", CPU)
    validation = Split(whole.images[:SCORED], whole.labels[:SCORED])
    order = torch.randperm(
        len(train := teacher.task.split("train", CPU)),
        generator=torch.Generator().manual_seed(seed),
    )
    batches = [
        teacher.normalise(images)
        for images, _, _ in islice(train.batches(BATCH_SIZE, order), 4)
    ]
    try:
        pruned, _ = mtp.prune(
            module,
            mode=[("fastnas", config)],
            constraints={"params": limits.bounds["num_params"]},
            dummy_input=torch.zeros(1, *teacher.architecture.input_shape),
            config={
                "data_loader": batches,
                "collect_func": lambda batch: batch,
                "score_func": lambda net: compute_accuracy(
                    net, validation, teacher.normalise
                ),
                "verbose": False,
                "checkpoint": str(subject.output / f"fastnas-{seed}.pth"),
            },
        )
    except ValueError as error:
        if UNSATISFIED not in str(error):
            raise
        raise OutOfReach(f"FastNAS has no student for {dict(limits.bounds)}") from error
    found = as_pruned(pruned, teacher.architecture)
    if not limits.keeps(found.student):  # it may return a student that breaks a limit
        raise OutOfReach(
            f"FastNAS found {found.student.num_params} parameters for "
            f"{dict(limits.bounds)}"
        )
    return found


METHODS: Final[Mapping[str, Callable[[Subject, Requirements, int], Pruned]]] = {
    "uniform": uniform,
    "magnitude": magnitude,
    "taylor": taylor,
    "fastnas": fastnas,
}
RESUMED: Final = (OURS, "fastnas")  # methods that go on where they were stopped
NEEDS: Final = {
    "magnitude": "torch_pruning",
    "taylor": "torch_pruning",
    "fastnas": "modelopt",
}
