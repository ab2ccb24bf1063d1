"""The benchmark tasks: environments with all arguments fixed, under ids of their own.

An id always means the same task. If a change of the code changes a task's scores, the
id gets a new version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Reference(NamedTuple):
    """Known rewards, to compare results with."""

    random: float  # random search's best, interquartile mean over seeds
    best: float  # the best known
    agent: str  # agent that found it
    evaluations: int  # number of distinct students that a run scores


class Preset(NamedTuple):
    """One benchmark task."""

    env: str  # id of the environment that has these arguments
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
        arguments["kernels"] = "floor"  # these tasks were published with it
    return name, Preset(_STAGES[stage], arguments, _REFERENCES.get(name))


PRESETS: Final[Mapping[str, Preset]] = dict(
    _digits(stage, network) for network in _NETWORKS for stage in _STAGES
)


def as_markdown() -> str:
    """The documentation page about the tasks, in Markdown."""
    lines = [
        "# Benchmark tasks",
        "",
        "Environments with a fixed teacher, task and evaluator; all other arguments "
        "have their defaults. An id always means the same task. `gym.make` and "
        "`n2n-gym compare --env` take it. The report of `compare` normalises rewards: "
        "random search, if it was run, is 0 and the best known reward is 1.",
        "",
        "- **random**: the best reward of random search, as an interquartile mean "
        "over seeds.",
        "- **best known**: the highest reward found so far.",
        "- **by**: the agent that found it.",
        "- **students**: the budget of both, in distinct students.",
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
