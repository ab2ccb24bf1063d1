"""Trained teachers on disk: each there whole or not at all."""

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

from n2n_gym.common.files import cache_folder, write_whole
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.teachers.teacher import Trained

logger = logging.getLogger(__name__)

_LOGITS: Final = "train.logits"
_ANSWERS: Final = "{}.answers"


def teacher_folder() -> Path:
    """Where trained teachers are kept."""
    return cache_folder() / "teachers"


def teacher_path(teacher: str, task: str, key: str) -> Path:
    """Where the teacher with this key is kept."""
    readable = re.sub(r"[^\w.@-]+", "-", f"{teacher}-{task}")
    return teacher_folder() / f"{readable}-{key[:12]}.safetensors"


def save_trained(path: Path, trained: Trained, about: Mapping[str, Any]) -> None:
    """Weights first, then the JSON that vouches for them."""
    answers = {_ANSWERS.format(s): a for s, a in (trained.answers or {}).items()}
    content = save({**trained.weights, _LOGITS: trained.logits, **answers})
    vouched = {
        **about,
        "validation_accuracy": trained.accuracy,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(path, content)
    write_whole(path.with_suffix(".json"), json.dumps(vouched, indent=1).encode())


def load_trained(path: Path) -> Trained | None:
    """What ``save_trained`` wrote; None if it is missing, or damaged: that is said."""
    about_path = path.with_suffix(".json")
    if not path.exists() and not about_path.exists():
        return None
    try:
        about = json.loads(about_path.read_text())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != about["sha256"]:
            raise ValueError(f"its SHA-256 is {found}, expected {about['sha256']}")
        weights = load_file(path)
        logits = weights.pop(_LOGITS)
        keys = {split: _ANSWERS.format(split) for split in SPLITS}
        answers = {s: weights.pop(key) for s, key in keys.items() if key in weights}
        accuracy = float(about["validation_accuracy"])
        return Trained(weights, accuracy, logits, answers or None)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        logger.warning(
            "the teacher in %s is damaged (%s) and is made anew", path, error
        )
        return None


def kept_teachers() -> list[dict[str, Any]]:
    """What is known of each teacher kept, by name and task."""
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
