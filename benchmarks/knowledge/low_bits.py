"""Which convolutions to keep in float, when the weights of all others have few bits.

This is a decision that no policy was trained for. Each order of a teacher's
convolutions says which ones to keep in float first:

    policy         the mean share of its channels that a convolution keeps in the
                   policy's students, largest first; a removed one keeps 0
    fresh policy   the same with a policy that was not trained
    random         a random order
    first, last    by depth
    small, large   by number of weights
    sensitivity    by the loss on validation images if only this convolution has few
                   bits, largest first; n forward passes over the images

Weights are rounded to multiples of one scale per layer, symmetrically, without
calibration; the classifier, biases, norms and activations stay in float. No network is
trained. Test images are chosen at random, and are the same for all orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.knowledge.decisions import Table
from benchmarks.results import Results
from n2n_agents.policies import Policy, make_policy
from n2n_gym.comparison.statistics import as_table
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Conv, DepthwiseConv
from n2n_gym.pretraining.learning import UNIFORMITY
from n2n_gym.pytorch.inference import BATCH, compute_accuracy, compute_logits
from n2n_gym.tasks.split import Split
from n2n_gym.teachers.teacher import Teacher

CPU: Final = torch.device("cpu")
FRACTIONS: Final = (0.125, 0.25, 0.5, 0.75)  # of the convolutions, kept in float
ENDS: Final = "all or none"  # in place of an order
DRAWN: Final = ("policy", "fresh policy", "random")  # with several seeds
FIXED: Final = ("first", "last", "small", "large", "sensitivity")
# ``policy`` and ``played`` are empty for orders that do not depend on them.
KEY: Final = (
    *("teacher", "task", "policy", "played", "bits", "images", "order", "seed"),
)
PLAYED: Final = ("policy", "fresh policy")


# The networks.


def quantised(weights: Tensor, bits: int) -> Tensor:
    """Weights rounded to 2**bits - 1 symmetric values with one scale."""
    most = 2 ** (bits - 1) - 1
    scale = weights.abs().max() / most
    return (weights / scale).round().clamp(-most, most) * scale if scale else weights


def convolutions(architecture: Architecture) -> list[str]:
    """Names of all convolutions, in order."""
    kinds = (Conv, DepthwiseConv)
    return [layer.name for layer in architecture.layers if isinstance(layer, kinds)]


class Rounded:
    """A teacher's network, with few bits in some convolutions.

    Args:
        bits: Number of bits of each weight.
        images: Number of images of each split; fewer if the split has fewer.
    """

    def __init__(self, teacher: Teacher, bits: int, images: int) -> None:
        self.normalise = teacher.normalise
        self.network = teacher.network(CPU)
        self.names = convolutions(teacher.architecture)
        parameters = dict(self.network.named_parameters())
        self.own = {name: parameters[f"{name}.weight"] for name in self.names}
        self.whole = {name: own.detach().clone() for name, own in self.own.items()}
        self.low = {name: quantised(own, bits) for name, own in self.whole.items()}
        splits = [teacher.task.split(what, CPU) for what in ("validation", "test")]
        self.validation, self.test = (some_of(split, images) for split in splits)

    def keep(self, kept: Iterable[str]) -> None:
        """Set these convolutions to float, and all others to few bits."""
        kept = set(kept)
        with torch.no_grad():
            for name, own in self.own.items():
                own.copy_((self.whole if name in kept else self.low)[name])

    def accuracy(self, kept: Iterable[str]) -> float:
        """Test accuracy, in [0, 1], with only these convolutions in float."""
        self.keep(kept)
        size = BATCH["cpu"]
        return compute_accuracy(
            self.network, self.test, self.normalise, batch_size=size
        )

    def loss(self, kept: Iterable[str]) -> float:
        """Cross-entropy on validation images, with these convolutions in float."""
        self.keep(kept)
        split, size = self.validation, BATCH["cpu"]
        logits = compute_logits(self.network, split, self.normalise, batch_size=size)
        return float(F.cross_entropy(logits, split.labels))

    def share(self, kept: Sequence[str]) -> float:
        """The fraction of the convolutions' weights that are in float."""
        counts = {name: whole.numel() for name, whole in self.whole.items()}
        return sum(counts[name] for name in kept) / sum(counts.values())


def some_of(split: Split, count: int) -> Split:
    """Random images of a split, always the same."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(split), generator=generator)[:count]
    return Split(split.images[order], split.labels[order])


# The orders.


def shares_kept(
    teacher: Architecture, students: Iterable[Architecture]
) -> dict[str, float]:
    """The mean share of its channels that each convolution keeps in the students."""
    names = convolutions(teacher)
    kept: dict[str, list[float]] = {name: [] for name in names}
    for student in students:
        for name in names:
            whole = teacher.shape_of(teacher.positions[name])[0]
            place = student.positions.get(name)
            kept[name].append(0.0 if place is None else _width(student, place) / whole)
    return {name: float(np.mean(values)) for name, values in kept.items()}


def _width(architecture: Architecture, position: int) -> int:
    return int(architecture.shape_of(position)[0])


def ordered(values: Mapping[str, float], seed: int) -> list[str]:
    """Names by value, the largest first; equal values in random order."""
    names = np.random.default_rng(seed).permutation(list(values)).tolist()
    return sorted(names, key=lambda name: -values[name])


def find_order(
    order: str,
    seed: int,
    rounded: Rounded,
    teacher: Architecture,
    table: Table,
    policy: Policy,
    targets: Sequence[float],
) -> list[str]:
    """The names of all convolutions, in an order of this module's list."""
    names = rounded.names
    if order in PLAYED:
        if order == "fresh policy":
            env = table.vector.envs[0]
            policy = make_policy(env, uniformity=UNIFORMITY, level=0.5, seed=seed)
        played = list(table.play(policy, targets, seed))
        students = [student for one in played for student in one.students]
        return ordered(shares_kept(teacher, students), seed)
    sizes = {name: float(rounded.whole[name].numel()) for name in names}
    values: dict[str, float]
    if order == "random":
        values = dict.fromkeys(names, 0.0)
    elif order == "sensitivity":
        values = {name: rounded.loss(set(names) - {name}) for name in names}
    elif order in ("first", "last"):
        sign = -1 if order == "first" else 1
        values = {name: float(sign * place) for place, name in enumerate(names)}
    else:
        sign = 1 if order == "large" else -1
        values = {name: sign * size for name, size in sizes.items()}
    return ordered(values, seed)


# The measurements.


def measure(rounded: Rounded, order: Sequence[str]) -> dict[str, Any]:
    """Test accuracies, and shares of weights in float, at each of ``FRACTIONS``."""
    kept = [order[: max(1, round(f * len(order)))] for f in FRACTIONS]
    return {
        "layers": list(order),
        "accuracy": [rounded.accuracy(names) for names in kept],
        "weights": [rounded.share(names) for names in kept],
    }


def wanted(seeds: int) -> list[tuple[str, int]]:
    """All orders with their seeds."""
    drawn = [(order, seed) for order in DRAWN for seed in range(seeds)]
    return [(ENDS, 0), *drawn, *((order, 0) for order in FIXED)]


def measure_all(
    results: Results,
    named: tuple[str, str],
    teacher: Teacher,
    path: Path,
    sha256: str,
    played: str,
    *,
    resources: Sequence[str],
    targets: Sequence[float],
    episodes: int,
    seeds: int,
    bits: int,
    images: int,
) -> None:
    """Measure the orders of a teacher that the folder does not have yet.

    Args:
        named: Names of the teacher and its task.
        path: File of the policy.
        played: Targets and number of the policy's episodes, as text.
    """
    done = results.read()
    keys = {
        (order, seed): (
            *(*named, sha256 if order == "policy" else ""),
            *(played if order in PLAYED else "", bits, images, order, seed),
        )
        for order, seed in wanted(seeds)
    }
    missing = {one: key for one, key in keys.items() if key not in done}
    if not missing:
        return
    rounded, table = Rounded(teacher, bits, images), Table(teacher, resources, episodes)
    policy, whole = table.load(path), teacher.architecture
    for (order, seed), key in tqdm(missing.items(), desc=" ".join(named)):
        if order == ENDS:
            ends = [rounded.accuracy(kept) for kept in ([], rounded.names)]
            found: dict[str, Any] = {"accuracy": ends}
        else:
            layers = find_order(order, seed, rounded, whole, table, policy, targets)
            found = measure(rounded, layers)
        results.add(**dict(zip(KEY, key, strict=True)), **found)


# What the measurements say.


def show(lines: Sequence[dict[str, Any]]) -> str:
    """A table for each teacher and number of bits, and one with means over teachers."""
    parts = []
    for bits, images in dict.fromkeys((x["bits"], x["images"]) for x in lines):
        here = [x for x in lines if (x["bits"], x["images"]) == (bits, images)]
        by_teacher: dict[str, list[dict[str, Any]]] = {}
        for line in here:
            name = f"{line['teacher']} on {line['task']}"
            by_teacher.setdefault(name, []).append(line)
        if len(by_teacher) > 1:
            by_teacher["mean of all teachers"] = here
        for name, mine in by_teacher.items():
            ends = np.mean([x["accuracy"] for x in mine if x["order"] == ENDS], axis=0)
            parts.append(
                f"{name}, {bits} bits, at most {images} images: {ends[0]:.2%} with no "
                f"convolution in float, {ends[1]:.2%} with all\n\n{_table(mine)}"
            )
    return "\n".join(parts)


def _table(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each order that every teacher has.

    It has the mean accuracy ± the standard deviation over seeds, the share of weights
    in float, and Kendall's tau to the order by sensitivity.
    """
    teachers = {_teacher(line) for line in lines}
    best = {_teacher(x): x["layers"] for x in lines if x["order"] == "sensitivity"}
    rows = []
    for order in (*DRAWN, *FIXED):
        mine = [line for line in lines if line["order"] == order]
        by_seed = {x["seed"]: [y for y in mine if y["seed"] == x["seed"]] for x in mine}
        whole = [of for of in by_seed.values() if {*map(_teacher, of)} == teachers]
        if not whole:
            continue
        accuracy, weights = (
            np.array([np.mean([x[what] for x in of], axis=0) for of in whole])
            for what in ("accuracy", "weights")
        )
        cells = [f"{mean:.2%}" for mean in accuracy.mean(0)]
        if len(whole) > 1:
            spread = accuracy.std(0, ddof=1)
            cells = [f"{c} ± {s:.2%}" for c, s in zip(cells, spread, strict=True)]
        cells.append(" ".join(f"{share:.2f}" for share in weights.mean(0)))
        taus = [
            agreement(x["layers"], best[_teacher(x)])
            for x in mine
            if _teacher(x) in best
        ]
        cells.append(f"{np.mean(taus):.2f}" if taus else "")
        rows.append([order, *cells])
    head = ["kept in float first", *(f"{fraction:.1%}" for fraction in FRACTIONS)]
    return as_table([*head, "share of weights in float", "tau to sensitivity"], rows)


def _teacher(line: Mapping[str, Any]) -> tuple[str, str]:
    return line["teacher"], line["task"]


def agreement(order: Sequence[str], other: Sequence[str]) -> float:
    """Kendall's tau of two orders of the same names."""
    places = [other.index(name) for name in order]
    return float(kendalltau(range(len(order)), places).statistic)
