"""The card of a policy: its training, its scores, and the limits of its use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from n2n_gym.pretraining.judging import Judged, summarise
from n2n_gym.pretraining.stages import FITS
from n2n_gym.pretraining.suite import Suite


def make_card(
    suite: Suite,
    stage: str,
    seed: int,
    *,
    steps: int,
    hours: float,
    entropy: float,
    predictors: Mapping[str, Any],
    corrections: Sequence[Mapping[str, Any]],
    training: Sequence[Judged],
    test: Sequence[Judged],
) -> dict[str, Any]:
    """Make a policy's card; ``write_trained`` adds the SHA-256 of the policy's file.

    Args:
        steps: Number of decisions that the policy learned from.
        hours: CPU time of the whole pretraining so far, in hours.
        entropy: Mean entropy of the policy's decisions at the end, in nats.
        predictors: Result of ``correction.how_good`` for the last ensemble of
            predictors.
        corrections: Result of ``correction.compare`` for this policy in each
            correction.
        training, test: Rewards of the trained and the fresh policy, and of students of
            uniform width, from real scores, on the training and on the test teachers.
    """
    return {
        "stage": stage,
        "seed": seed,
        "suite": suite.fingerprint,
        "saw": [
            {"teacher": each.teacher, "task": each.task, "family": each.family}
            for each in suite.training
        ],
        "students": suite.students,
        "fresh_students": suite.fresh * suite.corrections,
        "steps": steps,
        "cpu_hours": round(hours, 2),
        "entropy": entropy,
        "targets": {"resources": suite.resources, "range": suite.targets},
        "predictors": predictors,
        "corrections": list(corrections),
        "scores": {
            "training": summarise(training),
            "test": _by_target(test),
        },
        "limits_of_use": _limits(suite, stage),
        "versions": {"n2n_gym": version("n2n-gym"), "torch": torch.__version__},
    }


def _by_target(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Summarise the rewards, in one entry for each test teacher and target."""
    cases = dict.fromkeys((each.teacher, each.task, each.share) for each in judged)
    return [
        {
            "teacher": teacher,
            "task": task,
            "target": share,
            **summarise([e for e in judged if (e.teacher, e.task, e.share) == case]),
        }
        for case in cases
        for teacher, task, share in [case]
    ]


def _limits(suite: Suite, stage: str) -> list[str]:
    least, most = suite.targets
    kind = (
        "students are scaled to their limits (fit=True)"
        if stage in FITS
        else "students are not scaled to their limits (fit=False), and a limit is shown"
    )
    return [
        f"Environments of the stage {stage!r} where {kind}.",
        f"It was trained with limits on {' or '.join(suite.resources)}, from "
        f"{least:.3g} to {most:.3g} of the teacher's. Outside this range it was judged "
        f"only at the test targets.",
        "It was trained on convolutional networks for images from 8x8 to 32x32. It has "
        "seen no larger images, and no layers of other kinds than the training "
        "teachers have.",
        "It was trained on scores of the evaluator 'elastic' and on predictions of "
        "these scores. After longer distillation other students may be the best.",
    ]
