"""The inputs of a run: fingerprints that detect another teacher or other images.

A run's options are names and paths. What these options name can change: a weights file,
a folder of images, the result of a user's function. So a run records fingerprints of
its inputs, and every later command on the run compares them with the present inputs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import torch
from torch import Tensor

from n2n_gym.common.files import read_json, write_whole
from n2n_gym.runs.folder import HISTORY
from n2n_gym.runs.history import read_history
from n2n_gym.runs.options import Options
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.tasks.loading import TASKS, is_here
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.providing import Provider, digest_of
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

IDENTITY: Final = "identity.json"  # in the folder of a run
DATA: Final = "the images"
TRAINED: Final = "the weights from training"
AT_MOST: Final = 5  # changes that an error names
DIGITS: Final = 16  # shown digits of a SHA-256

_said: Final[set[Path]] = set()  # folders that had a warning

# Fingerprints by topic, worded for errors; None if a topic does not apply.
Facts: TypeAlias = Mapping[str, str | None]


def keep_identity(options: Options, teacher: Teacher) -> None:
    """Record the inputs of a new run; check the inputs of a resumed run.

    The teacher is trained now if necessary.

    Raises:
        ValueError: The run began with another teacher, or with other images.
    """
    path = options.output / IDENTITY
    _ = teacher.trained
    if path.exists() or read_history(options.output / HISTORY):
        check_unchanged(options, teacher)
        return
    content = {"facts": _facts(options, teacher), "splits": _of_splits(teacher.task)}
    write_whole(path, json.dumps(content, indent=1).encode())


def check_unchanged(options: Options, teacher: Teacher) -> None:
    """Refuse to resume a run that began with another teacher or other images.

    Nothing is trained for this check. Weights that n2n-gym trained are compared only if
    they are in the cache, or were trained by this process.

    Args:
        teacher: The teacher that the run's options give now.

    Raises:
        ValueError: Something has changed.
    """
    if found := changes(options.output, _facts(options, teacher), teacher.task):
        raise ValueError(f"{say(options.output, found)}; give another output folder")


def warn_of_changes(options: Options) -> None:
    """Warn if inputs have changed since a run began; the run's results stay valid.

    If the teacher or the images are missing, there is a warning too. No images are
    downloaded for this check.
    """
    name = options.task.partition("@")[0].partition(":")[0]
    try:
        if name in TASKS and not is_here(name):
            raise ValueError(f"the images of {name} are not on this machine")
        teacher = options.load_teacher()
        found = changes(options.output, _facts(options, teacher), teacher.task)
    except (ValueError, OSError) as error:
        logger.warning(
            "whether the teacher and the images of %s have changed is not known: %s",
            options.output,
            error,
        )
    else:
        if found:
            logger.warning(
                "%s; its student and its numbers are of what it began with",
                say(options.output, found),
            )


def say(folder: Path, found: list[str]) -> str:
    """A sentence about the inputs that have changed since a run began."""
    named = "; ".join(found[:AT_MOST])
    more = f"; {len(found) - AT_MOST} more" if len(found) > AT_MOST else ""
    return f"the run in {folder} began with other inputs: {named}{more}"


def changes(folder: Path, facts: Facts, task: Task) -> list[str]:
    """One clause for each input that has changed since a folder's run began.

    Args:
        facts: Facts about the present inputs. Other recorded facts are not compared.
        task: Present task, which shows what images have changed.

    Raises:
        ValueError: The record of the run's inputs is damaged.
    """
    kept = _read(folder)
    if kept is None:
        return []
    before, splits = kept
    found: list[str] = []
    if before.get(DATA) != facts[DATA]:
        found += _differences(splits, _of_splits(task))
        found = found or list(_differences(before, {DATA: facts[DATA]}))
    plain = facts.keys() - {DATA, TRAINED}
    found += _differences(before, {k: v for k, v in facts.items() if k in plain})
    if not found and None not in (before.get(TRAINED), facts.get(TRAINED)):
        found += _differences(before, {TRAINED: facts[TRAINED]})
    return found


def _differences(before: Facts, now: Facts) -> Iterator[str]:
    for what, value in now.items():
        if before.get(what) != value:
            yield f"{what}: {before.get(what) or 'none'} before, {value or 'none'} now"


def _facts(options: Options, teacher: Teacher) -> Facts:
    return {**_of_teacher(options, teacher), **of_task(options, teacher.task)}


def of_task(options: Options, task: Task) -> Facts:
    """Facts about the original task, before labels or colour channels were added."""
    task = task.unanswered or task
    task = task.grey or task
    names = ", ".join(task.class_names or ()) or f"{task.num_classes} without names"
    return {
        f"the classes of {options.task}": names,
        f"the augmentation of {options.task}": repr(task.augmentation),
        DATA: task.fingerprint[:DIGITS],
    }


def _of_teacher(options: Options, teacher: Teacher) -> Facts:
    """Facts about a teacher, and about the files that a search starts from."""
    name, architecture = options.teacher, teacher.architecture
    normalised = None if teacher.normalisation is None else repr(teacher.normalisation)
    source = teacher.provide
    given = start = trained = None
    if not isinstance(source, Provider):  # complete, perhaps with its own logits
        ranked = {f"(ranked) {k}": v for k, v in (teacher.ranked_by or {}).items()}
        own = {**teacher.weights, **ranked, "(logits)": teacher.trained.logits}
        given = _weights(own)
    elif source.network.weights is not None:
        given = _weights(source.network.weights)
    else:
        initial = source.network.initial
        start = None if initial is None else _weights(initial)
        known = teacher.trained if "trained" in vars(teacher) else source.kept()
        trained = None if known is None else _weights(known.weights)
    is_own = options.weights in (None, "own")
    return {
        f"the network {name}": f"{architecture.num_params:,} parameters, fingerprint "
        f"{architecture.fingerprint[:DIGITS]}",
        f"the weights {f'of {name}' if is_own else f'in {options.weights}'}": given,
        f"the weights that {name} is trained from": start,
        TRAINED: trained,
        f"the normalisation of {name}": normalised,
        **{f"the file {path}": _digest(path.read_bytes()) for path in _files(options)},
    }


def _weights(weights: Mapping[str, Tensor]) -> str:
    return digest_of(weights)[:DIGITS]


def _files(options: Options) -> Iterator[Path]:
    """The existing files that options name, besides the teacher and the task."""
    if options.init_policy is not None:
        yield from sorted(options.init_policy.glob("*.policy.pt"))
    named = [options.plan] if options.plan else []
    if options.evaluator is not None and options.evaluator.endswith(".json"):
        named.append(Path(options.evaluator))
    yield from filter(Path.exists, named)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _of_splits(task: Task) -> Facts:
    """Facts that identify images and labels of each split: counts, then digests."""
    task = task.unanswered or task
    task = task.grey or task
    counts: dict[str, str | None] = {}
    digests: dict[str, str | None] = {}
    names = task.class_names or tuple(map(str, range(task.num_classes)))
    for name in SPLITS:
        split = task.splits[name]
        digest = hashlib.sha256()
        for batch in torch.split(split.images, 1024):  # may be a memory map
            digest.update(batch.contiguous().cpu().numpy().data)
        digests[f"the images in {name}"] = digest.hexdigest()[:DIGITS]
        if name in task.unlabelled:
            counts[f"images without labels in {name}"] = str(len(split))
            continue
        labels = split.labels.cpu()
        for label, count in zip(names, labels.bincount().tolist(), strict=True):
            counts[f"images of class {label} in {name}"] = str(count)
        digests[f"the labels in {name}"] = _digest(labels.numpy().tobytes())
    return counts | digests


def _read(folder: Path) -> tuple[Facts, Facts] | None:
    """The recorded inputs of a folder's run; None, with a warning, if not recorded.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / IDENTITY
    if not path.exists():
        if folder not in _said:
            _said.add(folder)
            logger.warning(
                "%s has no %s: an earlier version began this run, and whether its "
                "teacher and its images have changed since is not known",
                folder,
                IDENTITY,
            )
        return None
    return read_json(path, lambda found: (dict(found["facts"]), dict(found["splits"])))
