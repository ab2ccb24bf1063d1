"""Trained teachers on disk; each is stored completely or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from n2n_gym.common.files import cache_folder, read_kept, write_whole
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.teachers.teacher import Trained

logger = logging.getLogger(__name__)

_LOGITS: Final = "train.logits"
_ANSWERS: Final = "{}.answers"


def teacher_folder() -> Path:
    """The folder of trained teachers."""
    return cache_folder() / "teachers"


def teacher_path(teacher: str, task: str, key: str) -> Path:
    """The path of a teacher's file, named after the teacher, the task and the key."""
    readable = re.sub(r"[^\w.@-]+", "-", f"{teacher}-{task}")
    return teacher_folder() / f"{readable}-{key[:12]}.safetensors"


def about_path(path: Path) -> Path:
    """The JSON file that marks a teacher's file as complete."""
    return path.with_suffix(".json")


def save_trained(path: Path, trained: Trained, about: Mapping[str, Any]) -> None:
    """Write the weights, then the JSON that marks them as complete."""
    answers = {_ANSWERS.format(s): a for s, a in (trained.answers or {}).items()}
    content = save({**trained.weights, _LOGITS: trained.logits, **answers})
    vouched = {
        **about,
        "validation_accuracy": trained.accuracy,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(path, content)
    write_whole(about_path(path), json.dumps(vouched, indent=1).encode())


def load_trained(path: Path) -> Trained | None:
    """The teacher in a file; None if it is missing or, with a warning, damaged."""
    return read_kept(path, read_trained, about_path(path))


def read_trained(path: Path) -> Trained:
    """The teacher in a file of ``save_trained``; an error if the file is damaged."""
    about = json.loads(about_path(path).read_text())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != about["sha256"]:
        raise ValueError(f"its SHA-256 is {found}, expected {about['sha256']}")
    weights = read_tensors(path)
    logits = weights.pop(_LOGITS)
    keys = {split: _ANSWERS.format(split) for split in SPLITS}
    answers = {s: weights.pop(key) for s, key in keys.items() if key in weights}
    accuracy = float(about["validation_accuracy"])
    return Trained(weights, accuracy, logits, answers or None)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: It is not a safetensors file.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def kept_teachers() -> list[dict[str, Any]]:
    """The facts about each teacher in the cache, sorted by name and task."""
    found = []
    for path in teacher_folder().glob("*.json"):
        about = _about(path)
        if about is not None:
            found.append(about)
    return sorted(found, key=lambda about: (about["teacher"], about["task"]))


def _about(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text())
        float(about["validation_accuracy"])
        str(about["teacher"] + about["task"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s does not describe a teacher (%r)", path, error)
        return None
    return {**about, "path": path.with_suffix(".safetensors")}
