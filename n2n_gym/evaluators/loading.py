"""Evaluators by name.

Torch takes seconds to import: what needs it is imported where it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from n2n_gym.common.plugins import lookup
from n2n_gym.evaluators.evaluator import Evaluator, SizeEvaluator
from n2n_gym.evaluators.rungs import (
    ELASTIC,
    FULL,
    INHERIT,
    PAPER,
    QUICK,
    SHORT,
    Rung,
)
from n2n_gym.evaluators.runner import InProcess, Runner
from n2n_gym.pytorch.recipe import read_precision
from n2n_gym.teachers.teacher import Teacher, is_untrained

if TYPE_CHECKING:
    import torch

    from n2n_gym.evaluators.scoring import DistillationEvaluator
    from n2n_gym.scores import ScoreStore

# Where students are measured: here, in so many processes, on a Ray cluster.
RunnerLike: TypeAlias = int | str | Runner | None
# Where scores are kept: in the cache folder, nowhere, at a database's address.
Store: TypeAlias = "bool | str | Path | ScoreStore | None"

ADDRESSES: Final = ("ray", "auto", "local")  # of Ray, beside those with a port
RUNGS: Final[Mapping[str, Rung]] = {
    rung.name: rung for rung in (INHERIT, QUICK, ELASTIC, SHORT, PAPER, FULL)
}


def _rung(
    rung: Rung,
    *,
    device: str | torch.device | None,
    workers: RunnerLike,
    store: Store,
    precision: str | None,
) -> Evaluator:
    from n2n_gym.evaluators.scoring import DistillationEvaluator

    runner, opened = load_runner(workers), load_store(store)
    return DistillationEvaluator(
        rung,
        device=device,
        precision=read_precision(precision),
        runner=runner,
        store=opened,
    )


def _size(*, workers: RunnerLike, store: Store, **_: Any) -> Evaluator:
    """Size alone; what it has no use for is refused all the same if it is wrong."""
    if workers is not None:
        load_runner(workers)
    if not isinstance(store, bool):
        load_store(store)
    return SizeEvaluator()


EVALUATORS: Final[Mapping[str, Callable[..., Evaluator]]] = {
    "size": _size,
    **{name: partial(_rung, rung) for name, rung in RUNGS.items()},
}


def load_evaluator(
    evaluator: str | Path | Evaluator,
    device: str | torch.device | None = None,
    *,
    workers: RunnerLike = None,
    store: Store = True,
    precision: str | None = None,
) -> Evaluator:
    """An evaluator from its name, or from ``"module:attribute"``: called with a device.

    The path of a file that ``n2n-gym scores calibrate`` wrote is one as well.

    Args:
        workers: Where students are measured: None: in this process; so many worker
            processes; ``"ray"`` or the address of a Ray cluster.
        store: Where scores are kept: True: in the cache folder; False or None: only in
            this process; a path or a database's URL.
        precision: Of students' arithmetic; by default the one that is faster here.
            Elsewhere that may be the other, and scores depend on it.

    Raises:
        ValueError: There is no such evaluator, device or precision.
    """
    read_precision(precision)
    if isinstance(evaluator, Path):
        evaluator = str(evaluator)
    is_own = not isinstance(evaluator, str) or ":" in evaluator
    if is_own and not (workers is None and store is True and precision is None):
        raise ValueError(
            f"evaluator_workers, store and precision are for evaluators by name; "
            f"{evaluator!r} has its own"
        )
    if not isinstance(evaluator, str):
        return evaluator
    if evaluator.endswith(".json"):
        from n2n_gym.evaluators.calibration import CalibratedEvaluator, Calibration

        calibration = Calibration.read(evaluator)
        runner, opened = load_runner(workers), load_store(store)
        cheap = load_rung(calibration.rung, device, runner=runner, store=opened)
        cheap.precision = read_precision(precision)
        return CalibratedEvaluator(cheap, calibration)
    make = lookup("evaluator", evaluator, EVALUATORS, also=("a calibration.json",))
    if evaluator not in EVALUATORS:
        return make(device=device)
    return make(device=device, workers=workers, store=store, precision=precision)


def refuse_without_images(evaluator: str | Path | Evaluator, teacher: Teacher) -> None:
    """Raise a ValueError where a rung is to score students of an architecture alone."""
    if isinstance(evaluator, str) and evaluator in RUNGS and is_untrained(teacher):
        raise ValueError(
            f"teacher {teacher.name} is an architecture alone, and {evaluator=} needs "
            f"images and weights; give task= to train it, or evaluator='size'"
        )


def load_rung(
    name: str,
    device: str | torch.device | None = None,
    *,
    runner: Runner | None = None,
    store: ScoreStore | None = None,
) -> DistillationEvaluator:
    """The evaluator of a rung of the ladder.

    Raises:
        ValueError: There is no such rung or device.
    """
    if name not in RUNGS:
        raise ValueError(f"unknown rung {name!r}; known: {', '.join(RUNGS)}")
    from n2n_gym.evaluators.scoring import DistillationEvaluator

    return DistillationEvaluator(RUNGS[name], device=device, runner=runner, store=store)


def load_runner(workers: RunnerLike) -> Runner:
    """Where students are measured.

    Raises:
        ValueError: There is no such place.
    """
    if workers is None:
        return InProcess()
    if isinstance(workers, Runner):
        return workers
    from n2n_gym.evaluators.workers import Workers

    if isinstance(workers, int) and not isinstance(workers, bool):
        return Workers(workers)
    if isinstance(workers, str) and (workers in ADDRESSES or ":" in workers):
        try:
            from n2n_gym.evaluators.cluster import RayWorkers
        except ModuleNotFoundError as error:
            raise ValueError(
                f"evaluator_workers={workers!r} needs Ray ({error}); "
                f'pip install "n2n-gym[ray]"'
            ) from error
        return RayWorkers(workers)
    raise ValueError(
        f"unknown evaluator_workers {workers!r}; accepted: None, a number of "
        f"processes, 'ray', 'auto', the address of a Ray cluster, an object with run()"
    )


def default_runner(most: int) -> Runner:
    """As many processes as there are cores to use, at most so many.

    Where there are no worker processes (Windows), students are measured here.
    """
    from n2n_gym.evaluators.workers import Workers

    return Workers(min(num_cores(), most)) if os.name == "posix" else InProcess()


def num_cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_store(store: Store) -> ScoreStore | None:
    """Where scores are kept."""
    if store is None or store is False:
        return None
    from n2n_gym.scores import ScoreStore

    if store is True:
        return ScoreStore()
    return store if isinstance(store, ScoreStore) else ScoreStore(store)
