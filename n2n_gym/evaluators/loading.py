"""Evaluators by name.

Importing torch takes seconds, so it is imported only when an evaluator needs it.
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

# Where students are scored: in this process, in worker processes, on a Ray cluster.
RunnerLike: TypeAlias = int | str | Runner | None
# Where scores are kept: in the cache folder, nowhere, in a database.
Store: TypeAlias = "bool | str | Path | ScoreStore | None"

ADDRESSES: Final = ("ray", "auto", "local")  # Ray's addresses without a port
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
    """Make a `SizeEvaluator`, after a check of the arguments that it does not use."""
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
    """An evaluator from its name, from a file or from your own function.

    A function is given as ``"module:attribute"`` and called with ``device=``. A file
    must come from ``n2n-gym scores calibrate``; it gives a calibrated evaluator.

    Args:
        evaluator: Name of an evaluator, such as ``"short"``; path of a calibration's
            .json file; ``"module:attribute"``; or an evaluator, which is returned.
        device: Device that students are scored on; by default the accelerator, or the
            CPU of a machine without accelerator.
        workers: Where students are scored. None: in this process; a number: in this
            many worker processes; ``"ray"`` or an address: on a Ray cluster; a
            `Runner`: by that runner.
        store: Where scores are kept. True: in the cache folder; False or None: only in
            this process; otherwise a path or a database's URL.
        precision: Precision of the students' arithmetic, "float32" or "bfloat16"; by
            default the rung's precision; for rungs without one, the faster one on this
            machine. Scores depend on the precision. If the faster one is used, they can
            differ between machines.

    Raises:
        ValueError: There is no such evaluator, device or precision; or your own
            evaluator is given together with ``workers``, ``store`` or ``precision``.
    """
    read_precision(precision)
    if isinstance(evaluator, Path):
        evaluator = str(evaluator)
    is_own = not isinstance(evaluator, str) or ":" in evaluator
    if is_own and not (workers is None and store is True and precision is None):
        raise ValueError(
            f"evaluator_workers, store and precision need an evaluator by name, got "
            f"{evaluator!r}"
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
    """Raise a ValueError if the evaluator needs images and the teacher has none."""
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
    """The distilling evaluator for the rung of this name.

    Raises:
        ValueError: There is no such rung or device.
    """
    if name not in RUNGS:
        raise ValueError(f"unknown rung {name!r}; known: {', '.join(RUNGS)}")
    from n2n_gym.evaluators.scoring import DistillationEvaluator

    return DistillationEvaluator(RUNGS[name], device=device, runner=runner, store=store)


def load_runner(workers: RunnerLike) -> Runner:
    """The runner that scores students: in this process, in workers or on a cluster.

    Raises:
        ValueError: ``workers`` is not an accepted value, or Ray is not installed.
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
    """A runner with a worker process for each available core, but at most ``most``.

    On Windows, which has no such worker processes, it scores students in this process.
    """
    from n2n_gym.evaluators.workers import Workers

    return Workers(min(num_cores(), most)) if os.name == "posix" else InProcess()


def num_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_store(store: Store) -> ScoreStore | None:
    """The store of scores; None if scores are not stored."""
    if store is None or store is False:
        return None
    from n2n_gym.scores import ScoreStore

    if store is True:
        return ScoreStore()
    return store if isinstance(store, ScoreStore) else ScoreStore(store)
