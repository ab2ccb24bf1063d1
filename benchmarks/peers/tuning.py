"""One result: a method's student, tuned by the common recipe and measured."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.answers import packed, right_answers
from benchmarks.peers.pruners import METHODS, OURS, RESUMED, Pruned
from benchmarks.peers.spent import Spent, counted, read_spent
from benchmarks.peers.subject import CPU, Subject
from benchmarks.results import made_here
from n2n_gym.common.files import cache_folder, write_whole
from n2n_gym.compression.pipeline import compress
from n2n_gym.evaluators.distillation import Settings, distil, prepare
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.limits.requirements import KEPT
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.reading import read_architecture
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.recipe import read_precision
from n2n_gym.pytorch.training import Diverged
from n2n_gym.resources.latency_table import latency_table
from n2n_gym.runs.folder import STUDENT, is_finished, open_run
from n2n_gym.runs.options import LIMITS, Options

# The fields that identify a result. The column "latency" has latencies of all students
# of a target, which were timed together.
KEY: Final = ("method", "target", "column", "seed")
EPOCHS, TIME = COLUMNS = ("epochs", "time")
LATENCY: Final = "latency"
PACKAGES: Final = ("torch", "torch-pruning", "nvidia-modelopt", "onnxruntime")


class Found(NamedTuple):
    """A student before its tuning, and the time of the search that found it."""

    pruned: Pruned
    spent: Spent


@dataclass(frozen=True)
class Bench:
    """The settings that all results share.

    Attributes:
        epochs: Epochs of each tuning, and of the last finalists of ``compress``.
        precision: Precision of all tunings; None for the faster one on this machine.
        options: Further options of ``compress``.
    """

    subject: Subject
    epochs: int
    precision: str | None
    options: Options

    def find(self, method: str, target: str, seed: int) -> Found:
        """A method's student for a target; it is stored for later calls.

        Raises:
            OutOfReach, Failed: The method has no student that keeps the target.
        """
        path = self._path("students", method, target, seed)
        weights, clock = path.with_suffix(".safetensors"), path.with_suffix(".spent")
        if not path.exists():
            is_resumed = method in RESUMED
            with counted(clock) if is_resumed else _counted_anew(clock):
                pruned = self._prune(method, target, seed)
            save_file({k: v.contiguous() for k, v in pruned.weights.items()}, weights)
            # Written last, so that the other files exist too.
            write_whole(path, pruned.student.to_json().encode())
        student = self.student(method, target, seed)
        return Found(Pruned(student, load_file(weights)), read_spent(clock))

    def student(self, method: str, target: str, seed: int) -> Architecture:
        """The student that ``find`` has stored."""
        path = self._path("students", method, target, seed)
        return read_architecture("student", path)

    @contextmanager
    def claimed(self, method: str, target: str, seed: int) -> Iterator[bool]:
        """Context in which no other process works on this student.

        The value tells whether it is this process that may work on it.
        """
        path = self._path("locks", method, target, seed).with_suffix(".lock")
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(path, timeout=0))
            except Timeout:
                yield False
            else:
                yield True

    def _path(self, folder: str, *key: Any) -> Path:
        """A student's .json file in a folder of the output."""
        place = self.subject.output / folder
        place.mkdir(exist_ok=True)
        return place / f"{'-'.join(map(str, key)).replace('/', '-')}.json"

    def _prune(self, method: str, target: str, seed: int) -> Pruned:
        if method == OURS:
            return self._compress(target, seed)
        limits = self.subject.requirements(target)
        with seeded(seed, CPU):
            return METHODS[method](self.subject, limits, seed)

    def _compress(self, target: str, seed: int) -> Pruned:
        """The student of `n2n-gym compress`, with its inherited weights.

        The search knows no scores of other runs. Its own copy of the cache has only the
        teacher and the teacher's logits. So the time of the search includes all of its
        work.
        """
        subject = self.subject
        folder = subject.output / "runs" / f"{target.replace('/', '-')}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        start = subject.teacher.architecture
        bounds = subject.requirements(target).bounds
        limits = {o: f"{bounds[r]:.12g}" for o, r in LIMITS.items() if r in bounds}
        options = replace(
            self.options,
            teacher=subject.name,
            task=subject.task,
            weights=str(subject.weights),
            output=folder / "run",
            store=str(folder / "scores.db"),
            seed=seed,
            precision=self.precision,
            **limits,
        )
        if not is_finished(options.output):
            # The run knows the teacher's latency from here. If it measured the teacher
            # anew, the limit would be another fraction of that latency.
            with open_run(options) as run:
                known = {start.fingerprint: subject.meter(start, start)}
                if not (run.folder / KEPT).exists():
                    write_whole(run.folder / KEPT, json.dumps(known).encode())
            with _own_cache(folder / "cache"):
                compress(options)
        student = read_architecture("student", options.output / STUDENT)
        with seeded(seed, CPU):  # layers behind a bypass may get random weights
            network = subject.teacher.inheritance(CPU).build(student)
        return Pruned(student, network.state_dict())

    def prepare(self) -> None:
        """Compute the teacher's logits, which all tunings use."""
        prepare(self.subject.teacher, self.settings(self.epochs))

    def tune(
        self, found: Pruned, epochs: int, key: tuple[str, str, str, int]
    ) -> tuple[dict[str, Any], Spent]:
        """The tuned student's accuracies and right answers, and the time of tuning.

        After a stop, tuning goes on from its checkpoint, which ``forget`` removes.
        """
        teacher = self.subject.teacher
        clock, checkpoint = self._tuning(key)
        with counted(clock):
            try:
                network = distil(
                    found.student,
                    teacher,
                    self.settings(epochs),
                    seed=key[-1],
                    initial=found.weights,
                    checkpoint=checkpoint,
                )
            except Diverged as error:
                return {"error": str(error)}, Spent()
        return self.answers(network), read_spent(clock)

    def forget(self, key: tuple[str, str, str, int]) -> None:
        """Remove the files of a tuning whose result is written."""
        for path in self._tuning(key):
            path.unlink(missing_ok=True)

    def _tuning(self, key: tuple[str, str, str, int]) -> tuple[Path, Path]:
        path = self._path("tunings", *key)
        return path.with_suffix(".spent"), path.with_suffix(".checkpoint")

    def answers(self, network: nn.Module) -> dict[str, Any]:
        """Validation accuracy, test accuracy, and a bit for each test image."""
        validation, test = (
            right_answers(network, self.subject.teacher, name)
            for name in ("validation", "test")
        )
        return {
            "validation": float(validation.mean()),
            "test": float(test.mean()),
            "num_images": len(test),
            "right": packed(test),
        }

    def settings(self, epochs: int) -> Settings:
        """The settings of the project's final distillation, with so many epochs."""
        precision = read_precision(self.precision)
        rung = FULL.with_epochs(epochs)
        evaluator = DistillationEvaluator(rung, device=CPU, precision=precision)
        return evaluator.settings(self.subject.teacher)

    def made_with(self) -> dict[str, Any]:
        """Versions, processor, commit and precision that a result depends on."""
        return {
            **made_here(PACKAGES),
            "threads": torch.get_num_threads(),
            "precision": self.settings(self.epochs).precision,
        }


def longer(searched: float, total: float, epochs: int, tuned: float) -> int:
    """Epochs with which a peer's search and tuning take as long as ours.

    The result is never below ``epochs``.

    Args:
        searched: Minutes of the peer's search.
        total: Minutes of our search and our tuning.
        epochs: Epochs of the tunings that all take equally many epochs.
        tuned: Minutes of the peer's tuning with ``epochs``.
    """
    return max(epochs, int((total - searched) * epochs / tuned))


@contextmanager
def _counted_anew(path: Path) -> Iterator[None]:
    """Count time from zero, because this work begins anew after a stop."""
    path.unlink(missing_ok=True)
    with counted(path):
        yield


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Context with a copy of the cache, deleted at the end but not after an error."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(cache_folder(), part)
        part.rename(folder)
    before = os.environ["N2N_CACHE"]
    latency_table.cache_clear()  # of an earlier search in this process
    os.environ["N2N_CACHE"] = str(folder)
    try:
        yield
        shutil.rmtree(folder)
    finally:
        os.environ["N2N_CACHE"] = before


def sizes(subject: Subject, found: Pruned) -> dict[str, float]:
    """Parameters, multiply-accumulates and milliseconds of a student."""
    return subject.meter(found.student, subject.teacher.architecture)


def read_compress(path: Path | None, epochs: int, workers: int) -> Options:
    """Further options of ``compress`` from a TOML file, or the defaults.

    Args:
        epochs: Epochs of the last finalists, unless the file sets epochs or minutes.
        workers: Processes that score students.
    """
    alike = {"controls": "none", "device": "cpu", "workers": workers}
    if path is None:
        return Options(final_epochs=epochs, **alike)
    given = Options.read(path)
    names = {name.replace("-", "_") for name in tomllib.loads(path.read_text())}
    if not given.is_timed and "final_epochs" not in names:
        given = replace(given, final_epochs=epochs)
    return replace(given, **alike)


def written(options: Options) -> dict[str, Any]:
    """The options of our search, as JSON values for a result."""
    found: dict[str, Any] = json.loads(json.dumps(vars(options), default=str))
    return found
