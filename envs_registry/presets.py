"""The benchmark tasks: environments with all arguments fixed, under ids of their own.

An id stands for the same task for ever: where a change would give other scores, its
version goes up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Reference(NamedTuple):
    """Rewards that others can be compared with."""

    random: float  # random search's best, interquartile mean over seeds
    best: float  # the best known
    agent: str  # that found it
    evaluations: int  # distinct students of a run


class Preset(NamedTuple):
    """One benchmark task."""

    env: str  # the id that it fixes the arguments of
    arguments: Mapping[str, Any]
    reference: Reference | None = None  # once it has been measured


_STAGES: Final = {"Remove": "N2NRemove-v0", "Shrink": "N2NShrink-v0"}
_NETWORKS: Final = {
    "ResNet18": "resnet18",
    "VGG11": "vgg11_bn",
    "MobileNetV2": "mobilenet_v2",
}
_REFERENCES: Final[Mapping[str, Reference]] = {
    "N2N/Remove-Digits-ResNet18-v0": Reference(0.9912, 0.9997, "dqn", 100),
    "N2N/Shrink-Digits-ResNet18-v0": Reference(0.8078, 0.9455, "dqn", 100),
    "N2N/Remove-Digits-VGG11-v0": Reference(0.9956, 0.9956, "random", 100),
    "N2N/Shrink-Digits-VGG11-v0": Reference(0.9468, 0.9957, "reinforce", 100),
    "N2N/Remove-Digits-MobileNetV2-v0": Reference(0.9334, 1.0027, "evolution", 100),
    "N2N/Shrink-Digits-MobileNetV2-v0": Reference(0.3194, 0.7323, "reinforce", 100),
}


def _digits(stage: str, network: str) -> tuple[str, Preset]:
    name = f"N2N/{stage}-Digits-{network}-v0"
    arguments = {
        "teacher": _NETWORKS[network],
        "task": "digits",
        "evaluator": "inherit",
    }
    if stage == "Shrink":
        arguments["kernels"] = "floor"  # as when these were first published
    return name, Preset(_STAGES[stage], arguments, _REFERENCES.get(name))


PRESETS: Final[Mapping[str, Preset]] = dict(
    _digits(stage, network) for network in _NETWORKS for stage in _STAGES
)


def as_markdown() -> str:
    """The page about them."""
    lines = [
        "# Benchmark tasks",
        "",
        "Environments with teacher, task and evaluator fixed, and all else as it is by "
        "default. An id stands for the same task for ever; `gym.make` takes it, and so "
        "does `n2n-gym compare --env`, whose report puts random search at 0, if it is "
        "among the agents, and the best known at 1.",
        "",
        "- **random**: the best reward of a random search, interquartile mean over "
        "seeds; **best known**: the highest reward anyone has found, and with what. "
        "Both in so many distinct students.",
        "",
        "| id | teacher | task | evaluator | random | best known | by | students |",
        "|---|---|---|---|---:|---:|---|---:|",
    ]
    for name, (_, arguments, reference) in PRESETS.items():
        fixed = [f"`{arguments[key]}`" for key in ("teacher", "task", "evaluator")]
        found = ["", "", "", ""]
        if reference is not None:
            found = [
                f"{reference.random:.4f}",
                f"{reference.best:.4f}",
                reference.agent,
                str(reference.evaluations),
            ]
        lines.append(f"| {' | '.join([f'`{name}`', *fixed, *found])} |")
    return "\n".join(lines) + "\n"
