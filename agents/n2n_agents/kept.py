"""Policies as files: checkpoints of trainings, and policies that come with the package.

A policy that comes with the package is a safetensors file. The card beside it is a JSON
file with the policy's training, its scores and its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from n2n_agents.policies import Policy, require_fit
from n2n_agents.proposals import Proposer
from n2n_agents.rollouts import Environment

VERSION: Final = 1  # version of columns and policy files
TRAINED: Final = Path(__file__).parent / "trained"  # the package's policies
SUFFIX: Final = ".safetensors"
LARGEST: Final = 1_000_000  # bytes of one of the package's policies
STAGE: Final = "stage"  # in an environment's metadata: what its policies decide
FITS: Final = "fits"  # likewise: whether its students are scaled to the limits
_ABOUT: Final = "n2n_policy"  # the only key of a file's metadata, as keys have no order


def save_policy(policy: Policy, path: str | Path, **more: Any) -> None:
    """Write a policy's arguments and weights; the file cannot contain code.

    An existing file is replaced only when the new file is complete.

    Args:
        more: Further plain values and tensors to store.
    """
    content = {
        "version": VERSION,
        "policy": policy.arguments,
        "weights": policy.state_dict(),
        **more,
    }
    buffer = io.BytesIO()  # torch would hide the error of writing a file
    torch.save(content, buffer)
    _write_whole(Path(path), buffer.getbuffer())


def _write_whole(path: Path, content: Any) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_content(path: str | Path) -> dict[str, Any]:
    """Everything that ``save_policy`` wrote to a file.

    Raises:
        ValueError: The file was not written by ``save_policy``.
    """
    try:
        content = torch.load(path, weights_only=True)
        if "policy" in content:
            _check_version(path, content.get("version"), content["policy"])
        _policy_of(content)
    except (
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        UnpicklingError,
        EOFError,
    ) as error:
        raise ValueError(f"{path} does not hold a policy: {error}") from error
    found: dict[str, Any] = content
    return found


def _check_version(path: str | Path, version: object, policy: dict[str, Any]) -> None:
    if version != VERSION:
        read = policy.get("columns") or ["without names"]
        raise ValueError(
            f"{path} holds a policy of another contract; train it anew, as these "
            f"columns have another meaning now: {', '.join(read)}"
        )


def load_policy(path: str | Path) -> Policy:
    """The policy in a file of ``save_policy`` or ``write_trained``, or in a checkpoint.

    Raises:
        ValueError: The file has no policy.
    """
    if Path(path).suffix == SUFFIX:
        return read_trained(path).policy
    return _policy_of(read_content(path))


def _policy_of(content: dict[str, Any]) -> Policy:
    policy = Policy(**content["policy"])
    policy.load_state_dict(content["weights"])
    return policy


# Policies with a stage.


class Trained(NamedTuple):
    """A trained policy for one stage, and facts about its training."""

    policy: Policy
    stage: str
    fits: bool  # whether its training scaled students to the limits
    aims: tuple[str, ...]  # resources with limits in its training: "params", "macs"


def trained_path(folder: Path, stage: str) -> Path:
    """Path of the policy for a stage."""
    return folder / f"{stage}{SUFFIX}"


def card_path(path: Path) -> Path:
    """Path of the card of a policy's file."""
    return path.with_suffix(".json")


def write_trained(
    path: Path,
    policy: Policy,
    stage: str,
    *,
    fits: bool,
    aims: Sequence[str],
    card: dict[str, Any],
) -> None:
    """Write a policy for a stage, and its card with the SHA-256 of the policy's file.

    Args:
        fits, aims: The fields of ``Trained``.
        card: The content of the card, without the SHA-256.

    Raises:
        ValueError: The file is larger than ``LARGEST``.
    """
    about = {
        "version": VERSION,
        "stage": stage,
        "fits": fits,
        "aims": list(aims),
        "policy": policy.arguments,
    }
    weights = {name: w.contiguous() for name, w in policy.state_dict().items()}
    content = save(weights, {_ABOUT: json.dumps(about)})
    if len(content) > LARGEST:
        raise ValueError(
            f"the policy for the stage {stage!r} has {len(content):,} bytes; the "
            f"package accepts at most {LARGEST:,}"
        )
    vouched = {**card, "sha256": hashlib.sha256(content).hexdigest()}
    _write_whole(path, content)
    _write_whole(card_path(path), json.dumps(vouched, indent=1).encode())


def read_trained(path: str | Path) -> Trained:
    """The policy in a file of ``write_trained``.

    Raises:
        ValueError: The file has no such policy, or its card has another SHA-256.
        OSError: There is no such file.
    """
    path = Path(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    card = card_path(path)
    try:
        vouched = json.loads(card.read_text())["sha256"] if card.exists() else found
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{card} is not a policy's card: {error!r}") from error
    if found != vouched:
        raise ValueError(f"{path} has the SHA-256 {found}, but its card has {vouched}")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[_ABOUT])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_version(path, about["version"], about["policy"])
        policy = _policy_of({"policy": about["policy"], "weights": weights})
        aims = tuple(about["aims"])
        return Trained(policy, about["stage"], about["fits"], aims)
    except (LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not hold a policy: {error}") from error


def load_trained(path: str | Path, env: Environment) -> Policy:
    """A policy with a stage, for an environment of that stage.

    Raises:
        ValueError: The policy was made for another stage, or reads columns that the
            environment does not show.
    """
    trained, stage = read_trained(path), env.metadata.get(STAGE)
    if trained.stage != stage:
        raise ValueError(
            f"{path} is a policy for the stage {trained.stage!r}, but the environment "
            f"has the stage {stage!r}"
        )
    require_fit(trained.policy, env)
    return trained.policy


def find_trained(env: Environment, folder: Path | None = None) -> Policy | None:
    """The trained policy for an environment's agents to start from, or None.

    The policy must be for the environment's stage. The environment must have limits on
    resources, and each of these resources must have had a limit in the policy's
    training. The training must have scaled students to limits if and only if the
    environment does.

    Args:
        folder: Folder with policies; by default the package's own.

    Raises:
        ValueError: The policy's file is damaged, or the policy does not fit the
            environment's columns.
    """
    stage = env.metadata.get(STAGE)
    path = trained_path(TRAINED if folder is None else folder, str(stage))
    if stage is None or not path.is_file():
        return None
    trained = read_trained(path)
    names = set(Proposer(env, seed=0).resources_with_limits)
    is_fitted = bool(env.metadata.get(FITS))
    if trained.fits != is_fitted or not names or not names <= set(trained.aims):
        return None
    return load_trained(path, env)
