"""The policies that a run starts from: fresh ones, or one policy file per stage.

A run's folder records digests of these files. So a resumed run uses the same policies,
or fails if a newer package has different ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from n2n_agents import kept
from n2n_agents.policies import Policy
from n2n_gym.common.files import read_json, write_whole
from n2n_gym.runs.folder import HISTORY, POLICY
from n2n_gym.runs.history import read_history
from n2n_gym.runs.options import REINFORCE, Options

NONE: Final = Path("none")  # --init-policy for fresh policies
STAGES: Final = ("remove", "shrink")
BEGAN: Final = "policies.json"  # in the folder: digests of the first policies
FROZEN_UPDATES: Final = 4  # updates of a stage with frozen policies: 20 students


def policy_files(options: Options) -> dict[str, Path]:
    """The file that each stage's policy starts from, by stage.

    Stages whose policy starts fresh are left out.

    Raises:
        ValueError: The given folder has no policy for a stage, or a policy of another
            stage in its place. Or the options freeze policies, but all policies are
            fresh.
    """
    if options.agent != REINFORCE or options.init_policy == NONE:
        found = {}
    elif options.init_policy is None:
        every = {stage: kept.trained_path(kept.TRAINED, stage) for stage in STAGES}
        found = {stage: path for stage, path in every.items() if path.is_file()}
    else:
        found = {
            stage: _file_in(options.init_policy, stage)
            for stage in (STAGES if options.shrinkage_updates else STAGES[:1])
        }
    if options.frozen and not found:
        raise ValueError(
            "frozen=True needs trained policies; give the folder that has them as "
            "init_policy"
        )
    for stage, path in found.items():
        if path.suffix != kept.SUFFIX:
            kept.load_policy(path)
        elif (of := kept.read_trained(path).stage) != stage:
            raise ValueError(
                f"{path} is a policy for the stage {of!r}, not for {stage!r}"
            )
    return found


def _file_in(folder: Path, stage: str) -> Path:
    """A folder's policy file for a stage: a run's own, or one for many teachers.

    Raises:
        ValueError: The folder has neither.
    """
    of_run = folder / POLICY.format(agent=REINFORCE, stage=stage)
    before = kept.trained_path(folder, stage)
    for path in (of_run, before):
        if path.is_file():
            return path
    raise ValueError(
        f"there is no policy for the stage {stage!r}: neither {of_run} nor "
        f"{before.name} is in the folder"
    )


def begun_as(options: Options, folder: Path) -> dict[str, Path]:
    """The file that each stage's policy started from when the run began, by stage.

    If ``init_policy`` is not given, and the run has scores but no record of policy
    files, the run began with fresh policies; the result is then empty.

    Raises:
        ValueError: A file has changed since the run began, or is gone.
    """
    path = folder / BEGAN
    found = policy_files(options)
    now = {stage: _digest(file) for stage, file in found.items()}
    if not path.exists():
        if options.init_policy is None and read_history(folder / HISTORY):
            return {}
        if now:
            write_whole(path, json.dumps(now).encode())
        return found
    before: Mapping[str, str] = read_json(path, dict)
    for stage, digest in before.items():
        if now.get(stage) != digest:
            raise ValueError(
                f"the policy of the stage {stage!r} in {folder} started from a file "
                f"with the SHA-256 {digest}; now it would start from "
                f"{now.get(stage, 'fresh')}; give another output folder"
            )
    return {stage: file for stage, file in found.items() if stage in before}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_aimed(path: Path | None) -> bool:
    """Whether a file's policy was trained with targets, and so has to observe them.

    Args:
        path: The policy's file; None for a fresh policy.
    """
    return path is not None and path.suffix == kept.SUFFIX


def load(path: Path, env: Any, *, is_asked_for: bool) -> Policy | None:
    """The policy in a file, for an environment; None if it does not fit.

    Args:
        is_asked_for: Whether the user named the file. If so, a policy that does not fit
            raises an error.

    Raises:
        ValueError: The policy was asked for and does not fit the environment.
    """
    if path.suffix != kept.SUFFIX:
        return kept.load_policy(path)
    if is_asked_for:
        return kept.load_trained(path, env)
    return kept.find_trained(env, path.parent)
