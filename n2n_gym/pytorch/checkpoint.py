"""Checkpoints: the files from which a training goes on after a kill."""

from __future__ import annotations

import io
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from n2n_gym.common.files import kept_if_possible, write_whole
from n2n_gym.pytorch.training import State

logger = logging.getLogger(__name__)

KEEP_EVERY: Final = 15.0  # seconds at least between two checkpoints


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with kept_if_possible(path):
        write_whole(path, buffer.getvalue())


def read_checkpoint(
    path: Path | None, about: Mapping[str, Any], *names: str
) -> dict[str, Any] | None:
    """A checkpoint; None if there is none, or of another training.

    A damaged file is left, with a warning.

    Args:
        about: Plain values that identify the training.
        names: Names of the other values that it must have.
    """
    if path is None or not path.exists():
        return None
    try:
        kept: dict[str, Any] = torch.load(path, "cpu", weights_only=True)
        _ = [kept[name] for name in names]
        is_same = all(kept[name] == value for name, value in about.items())
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        logger.warning("the checkpoint %s is damaged (%s) and is left", path, error)
        return None
    return kept if is_same else None


def keeping(
    path: Path, about: Mapping[str, Any]
) -> Callable[[Callable[[], State]], None]:
    """A callback after epochs that writes a checkpoint every few seconds.

    Args:
        about: Plain values that are written with the state of the training.
    """
    kept_at = time.perf_counter()

    def after_epoch(state: Callable[[], State]) -> None:
        nonlocal kept_at
        if time.perf_counter() - kept_at >= KEEP_EVERY:
            write_checkpoint(path, {**about, "training": state()})
            kept_at = time.perf_counter()

    return after_epoch


def resumable(path: Path | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `train`: a killed training resumes from its checkpoint.

    The caller removes the file after the training.

    Args:
        path: Path of the checkpoint; None for a training without one.
        about: Plain values that identify the training.
    """
    if path is None:
        return {}
    kept = read_checkpoint(path, about, "training")
    if kept is None:
        return {"after_epoch": keeping(path, about)}
    logger.info("going on after epoch %d", kept["training"]["epoch"])
    return {"after_epoch": keeping(path, about), "resume": kept["training"]}
