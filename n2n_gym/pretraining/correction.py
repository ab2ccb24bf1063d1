"""Corrections: policies' own students are scored, and predictors learn the scores.

A policy that learns from predictions tends to find students whose predicted accuracies
are too high. The real scores of these students correct the predictors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from n2n_agents.policies import Policy
from n2n_gym.common.progress import progress
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pretraining import predictor
from n2n_gym.pretraining.encoding import Encoder
from n2n_gym.pretraining.learning import Arena, Source
from n2n_gym.pretraining.predictor import (
    Ensemble,
    fit_member,
    load_member,
    rank_correlations,
    save_member,
)
from n2n_gym.pretraining.samples import (
    Drawn,
    Sample,
    examples_of,
    read_samples,
    score_into,
    seed_of,
)
from n2n_gym.pretraining.stages import draw_target
from n2n_gym.pretraining.suite import Subject

APART: Final = 1_000_000  # difference of first student numbers between corrections
EACH: Final = 10_000  # difference of first student numbers between policies


def first_number(correction: int, policy: int) -> int:
    """The number of a policy's first student in a correction.

    Args:
        correction: Number of the correction, from 1.
        policy: Number of the policy, from 0.
    """
    return correction * APART + policy * EACH


def fresh_students(
    arena: Arena, source: Source, policy: Policy, first: int
) -> Iterator[Drawn]:
    """Let a policy make ``suite.fresh`` students, each for its own random target.

    Args:
        arena: Arena with one row per vector environment.
        first: Number of the first student; the next students have the next numbers.
    """
    suite = arena.suite
    for number in range(first, first + suite.fresh):
        rng = np.random.default_rng(seed_of(source.subject.key, "fresh", number))
        target = draw_target(rng, suite.resources, *suite.targets)
        place = int(rng.integers(arena.num_starts(source)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        (episode,) = arena.play(source, policy, target, generator, place)
        student = Architecture.from_json(episode.info["student"])
        yield Drawn(number, arena.stage, target, student)


def score_fresh(
    path: Path,
    arena: Arena,
    source: Source,
    policy: Policy,
    first: int,
    evaluator: Evaluator,
    on_student: Callable[[], object] = lambda: None,
) -> list[Sample]:
    """Make and score a policy's new students, and return their samples.

    Students whose samples are in the file are not made again.

    Args:
        path: File of the teacher's samples; new samples are added to it.
        arena: Arena with one row per vector environment.
        first: Number of the first student; the next students have the next numbers.
        evaluator: Evaluator for the real scores.
        on_student: Callback after each new student.
    """
    done = {sample.number for sample in read_samples(path)}
    numbers = range(first, first + arena.suite.fresh)
    if not done.issuperset(numbers):
        drawn = fresh_students(arena, source, policy, first)
        missing = (each for each in drawn if each.number not in done)
        score_into(
            path,
            missing,
            source.teacher,
            evaluator,
            predicted=source.evaluator.accuracies,
            on_student=on_student,
        )
    return [sample for sample in read_samples(path) if sample.number in numbers]


def compare(groups: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Errors of the predictions for a policy's own students.

    Args:
        groups: The students of each teacher.

    Returns:
        ``students``: the number of students with a real and a predicted accuracy. All
        other entries are computed for each teacher and averaged over the teachers, with
        accuracies relative to the teacher's. ``real``: the mean real accuracy.
        ``excess`` and ``excess_of_mean``: the mean cautious prediction, and the mean of
        the ensemble's mean predictions, minus ``real``; above 0 if the predictions were
        too high. The rest are the entries of `rank_correlations`, which gets each
        student's target in place of its size. Without such students, there is only
        ``students``.
    """
    known = [
        some
        for group in groups
        if (some := [s for s in group if None not in (s.accuracy, s.predicted)])
    ]
    if not known:
        return {"students": 0}
    found = [_errors(some) for some in known]
    averaged = {name: _mean([each[name] for each in found]) for name in found[0]}
    return {"students": sum(map(len, known)), **averaged}


def _errors(samples: Sequence[Sample]) -> dict[str, float | None]:
    """The entries of `compare` for the students of one teacher."""
    real, said, mean = (
        np.array([(getattr(s, name) or 0) / s.teacher_accuracy for s in samples])
        for name in ("accuracy", "predicted", "expected")
    )
    return {
        "real": float(real.mean()),
        "excess": float((said - real).mean()),
        "excess_of_mean": float((mean - real).mean()),
        **rank_correlations(said, real, np.array([s.share for s in samples])),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are defined; None without such values."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def fit_ensemble(
    place: Path,
    samples: Mapping[Subject, Sequence[Sample]],
    encoders: Mapping[Subject, Encoder],
    on_epoch: Callable[[], object] = lambda: None,
) -> Ensemble:
    """Fit the members of an ensemble that are not in their files yet.

    Args:
        place: Path that begins the names of the members' files.
        samples: The students of each teacher; those held out are left out.
        on_epoch: Callback after each epoch of a member.
    """
    paths = [
        place.with_name(f"{place.name}-{m}.safetensors")
        for m in range(predictor.MEMBERS)
    ]
    missing = [path for path in paths if not path.exists()]
    if missing:
        learned = [
            examples_of([x for x in some if not x.is_held_out], encoders[subject])
            for subject, some in samples.items()
        ]
        learned = [each for each in learned if len(each)]
        epochs = predictor.EPOCHS
        total = epochs * len(missing)
        with progress(total, "Fitting predictors", is_long=True) as bar:

            def done() -> None:
                bar.update()
                on_epoch()

            for path in missing:
                seed = seed_of("predictor", path.stem)
                member = fit_member(learned, seed, epochs=epochs, on_epoch=done)
                save_member(member, path)
    return Ensemble([load_member(path) for path in paths])


def how_good(
    ensemble: Ensemble,
    samples: Mapping[Subject, Sequence[Sample]],
    encoders: Mapping[Subject, Encoder],
) -> dict[str, Any]:
    """Errors and rank correlations of predictions for each teacher's held-out students.

    Returns:
        For each teacher's key: the number of ``students``; the ``error``, which is the
        mean absolute error of accuracies relative to the teacher's; and the entries of
        `rank_correlations`.
    """
    found = {}
    for subject, some in samples.items():
        held = examples_of([s for s in some if s.is_held_out], encoders[subject])
        if len(held):
            said = ensemble.predict(held.rows, held.sizes).mean(0)
            found[subject.key] = {
                "students": len(held),
                "error": float((said - held.accuracies).abs().mean()),
                **rank_correlations(
                    said.double().numpy(),
                    held.accuracies.double().numpy(),
                    np.asarray(held.sizes[:, 0].double()),
                ),
            }
    return found
