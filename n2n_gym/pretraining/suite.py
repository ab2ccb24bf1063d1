"""A suite: the training teachers and test teachers of policies, with settings.

A suite is checked before anything is trained. Training teachers and test teachers must
have no family and no images in common.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

from n2n_gym.common.files import data_folder
from n2n_gym.common.quantities import show_quantity
from n2n_gym.networks.decisions import removals, shrinkages
from n2n_gym.resources import COUNTED
from n2n_gym.tasks.classes import read_classes
from n2n_gym.tasks.loading import TASKS, is_here
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

STANDARD: Final = Path(__file__).parent / "suite.toml"  # the suite of the package
STAGES: Final = ("compress", "remove", "shrink")
MOST_MACS: Final = 60_000_000  # largest multiply-accumulates of a training teacher
# Tasks that share images with another task.
SOURCES: Final[Mapping[str, str]] = {"cifar10x16": "cifar10", "emnist": "mnist"}


class Subject(NamedTuple):
    """A teacher by name, its task, and its family."""

    teacher: str
    task: str
    family: str

    @property
    def key(self) -> str:
        """The subject's name in file names and seeds."""
        plain = f"{self.teacher}-{self.task}"
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in plain)

    def load(self) -> Teacher:
        """Load the teacher, which is trained when its weights are first needed.

        Raises:
            ValueError: The teacher or the task is unknown.
        """
        try:
            return load_teacher(self.teacher, self.task, device="cpu")
        except ValueError as error:
            raise ValueError(f"{self.teacher} on {self.task}: {error}") from error


@dataclass(frozen=True)
class Suite:
    """The teachers and the settings of a training of policies.

    Attributes:
        stages: Stages that a policy is trained for.
        seeds: Seeds of each stage's policies; a stage has a policy for each of its
            seeds. The result for a stage is its policy that is best on the training
            teachers.
        students: Number of students drawn and scored per training teacher.
        corrections: Number of times that predictors are fitted again, also to new
            students that the policies made.
        fresh: Number of students scored per policy and teacher in a correction.
        updates: Number of updates of a policy with each ensemble of predictors, by
            stage.
        groups: Number of groups of episodes in an update. A group has one teacher and
            one target.
        rollouts: Number of episodes in a group.
        resources: Resources that targets can limit. The resource of a target is drawn
            uniformly from these.
        targets: Smallest and largest training target, as fractions of the teacher's
            value.
        test_targets: Targets at which policies are judged, as fractions of the
            teacher's value.
        training, test: The training teachers and the test teachers.
        text: The text of the suite's file.
    """

    stages: tuple[str, ...]
    seeds: Mapping[str, tuple[int, ...]]
    students: int
    corrections: int
    fresh: int
    updates: Mapping[str, int]
    groups: int
    rollouts: int
    resources: tuple[str, ...]
    targets: tuple[float, float]
    test_targets: tuple[float, ...]
    training: tuple[Subject, ...]
    test: tuple[Subject, ...]
    text: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the suite's file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


_COUNTS: Final = ("students", "fresh", "groups", "rollouts")
_KEYS: Final = (
    *("stages", "seeds", "corrections", "updates", *_COUNTS),
    *("targets", "training", "test"),
)


def read_suite(path: str | Path) -> Suite:
    """A suite from a TOML file; ``"standard"`` is the suite of the package.

    Raises:
        ValueError: The file is not TOML, a key is missing or unknown, a value is not
            accepted, or a test teacher is not held out; see `check_held_out`.
    """
    path = STANDARD if str(path) == "standard" else Path(path)
    if not path.is_file():
        raise ValueError(
            f"there is no suite {path}; a suite is 'standard' or the path of a .toml "
            f"file"
        )
    text = path.read_text()
    try:
        values = tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    try:
        return _suite(values, text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _suite(values: Mapping[str, Any], text: str) -> Suite:
    _refuse_others("", values, _KEYS)
    targets = values["targets"]
    _refuse_others("targets.", targets, ("resources", "training", "test"))
    stages, resources = tuple(values["stages"]), tuple(targets["resources"])
    for what, given, known in (
        ("stages", stages, STAGES),
        ("targets.resources", resources, COUNTED),
    ):
        if not given or not set(given) <= set(known) or len(set(given)) < len(given):
            raise ValueError(
                f"{what} must be one or more of {', '.join(known)}, each once, got "
                f"{list(given)}"
            )
    _refuse_others("updates.", values["updates"], stages)
    _refuse_others("seeds.", values["seeds"], stages)
    counts = {name: _count(name, values[name], 1) for name in _COUNTS}
    if counts["rollouts"] < 2:
        raise ValueError(
            "rollouts must be at least 2, as they are compared with each other, got 1"
        )
    training = tuple(_subject("training", each) for each in values["training"])
    test = tuple(_subject("test", each) for each in values["test"])
    check_held_out(training, test)
    return Suite(
        stages=stages,
        seeds={
            stage: tuple(_count(f"seeds.{stage}", n, 0) for n in values["seeds"][stage])
            for stage in stages
        },
        corrections=_count("corrections", values["corrections"], 0),
        updates={
            stage: _count(f"updates.{stage}", values["updates"][stage], 1)
            for stage in stages
        },
        resources=resources,
        targets=_range(targets["training"]),
        test_targets=tuple(map(read_target, targets["test"])),
        training=training,
        test=test,
        text=text,
        **counts,
    )


def _refuse_others(where: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{where.rstrip('.') or 'a suite'} must be a table of {', '.join(known)}, "
            f"got {given!r}"
        )
    for name in given.keys() - set(known):
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"unknown key {where}{name}; {hint}")
    for name in known:
        if name not in given:
            raise ValueError(f"the key {where}{name} is missing")
        if given[name] in ([], {}) and f"{where}{name}" != "test":
            raise ValueError(f"{where}{name} must not be empty, got {given[name]!r}")


def _count(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return value


def _subject(where: str, given: Any) -> Subject:
    _refuse_others(f"{where}.", given, Subject._fields)
    for name in Subject._fields:
        if not isinstance(given[name], str):
            raise ValueError(f"{where}.{name} must be a string, got {given[name]!r}")
    return Subject(**given)


def read_target(value: Any) -> float:
    """A target, given as 0.25 or "1/4": a fraction of the teacher, in (0, 1].

    Raises:
        ValueError: The value is not such a fraction.
    """
    try:
        found = float(Fraction(value)) if isinstance(value, (str, float, int)) else 0.0
    except (ValueError, ZeroDivisionError):
        found = 0.0
    if not 0 < found <= 1:
        raise ValueError(
            f"a target must be a fraction in (0, 1], such as 0.25 or '1/4', got "
            f"{value!r}"
        )
    return found


def _range(given: Any) -> tuple[float, float]:
    if not isinstance(given, list) or len(given) != 2:
        raise ValueError(f"targets.training must be [least, most], got {given!r}")
    least, most = map(read_target, given)
    if least > most:
        raise ValueError(
            f"targets.training must be [least, most] with least <= most, got {given}"
        )
    return least, most


# What is held out.


def images_of(task: str) -> tuple[str, frozenset[int] | None]:
    """The data set of a task's images, and their classes; None for all classes."""
    name, colon, rest = task.partition(":")
    if name not in TASKS:
        return task, None
    chosen = rest.partition(":")[0]
    classes = frozenset(read_classes(name, chosen)) if colon else None
    return SOURCES.get(name, name), classes


def share_images(first: str, second: str) -> bool:
    """Whether two tasks can have images in common."""
    (one, some), (other, others) = images_of(first), images_of(second)
    if one != other:
        return False
    return some is None or others is None or bool(some & others)


def check_held_out(training: Sequence[Subject], test: Sequence[Subject]) -> None:
    """Refuse test teachers whose family or images are used for training.

    Raises:
        ValueError: A test teacher has its family or images in common with a training
            teacher, or a teacher is listed twice.
    """
    keys = [subject.key for subject in (*training, *test)]
    for subject in (*training, *test):
        if keys.count(subject.key) > 1:
            raise ValueError(f"{subject.teacher} on {subject.task} is listed twice")
    families = {subject.family: subject for subject in training}
    for held in test:
        if seen := families.get(held.family):
            raise ValueError(
                f"the test teacher {held.teacher} must not be of the family "
                f"{held.family!r}, as the training teacher {seen.teacher} is"
            )
        for subject in training:
            if share_images(held.task, subject.task):
                raise ValueError(
                    f"the test task {held.task} must not share images with the "
                    f"training task {subject.task}"
                )


def check_suite(suite: Suite) -> list[Teacher]:
    """Load the training teachers, then the test teachers, without training them.

    Raises:
        ValueError: A teacher is unknown, its images are not in the data folder, it is a
            training teacher with more than ``MOST_MACS`` multiply-accumulates, or it
            has nothing to remove or nothing to shrink.
    """
    found = []
    for subject in (*suite.training, *suite.test):
        _check_images(subject.task)
        teacher = subject.load()
        whole = teacher.architecture
        if subject in suite.training and whole.num_macs > MOST_MACS:
            raise ValueError(
                f"a training teacher must have at most "
                f"{show_quantity('macs', MOST_MACS)} multiply-accumulates; "
                f"{subject.teacher} on {subject.task} has "
                f"{show_quantity('macs', whole.num_macs)}"
            )
        if not removals(whole) or not shrinkages(whole):
            raise ValueError(
                f"a teacher must have layers to remove and layers to shrink; "
                f"{subject.teacher} on {subject.task} has {len(removals(whole))} and "
                f"{len(shrinkages(whole))}"
            )
        found.append(teacher)
    return found


def _check_images(task: str) -> None:
    """Refuse a task whose images would have to be downloaded during the training."""
    name = task.partition(":")[0]
    if name in TASKS and not is_here(name):
        raise ValueError(
            f"the images of {task} are not in {data_folder()}: set N2N_DATA to the "
            f"folder that has them"
        )
