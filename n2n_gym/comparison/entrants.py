"""The agents that enter a suite: what they were trained on, and what file they are."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import gymnasium as gym

from envs_registry.bench import DEVELOPMENT
from n2n_agents.library import find_agent

REGRESSION: Final = "regression"  # the baseline of n2n_gym/bench/rivals.py
PREPARED: Final = "reinforce"  # the agent that uses the package's policies
FRESH: Final = "none"  # "reinforce@none" uses none of them


class Entrant(NamedTuple):
    """An agent of a suite.

    Attributes:
        name: Name as ``find_agent`` takes it, or ``"regression"``.
        seen: What it was trained on before, names of tables or other words.
        source: Hash of the agent's own file, 16 hexadecimal digits; "" if it has none.
    """

    name: str
    seen: tuple[str, ...] = ()
    source: str = ""


def entrant(
    name: str, seen: Sequence[str], envs: Callable[[], Iterable[gym.Env]]
) -> Entrant:
    """Check an agent's name, and whether it is pretrained.

    Args:
        seen: What the pretrained agents and the user's own have seen. The package's
            other agents have seen nothing.
        envs: Function that makes the environments of the suite.

    Raises:
        ValueError: There is no such agent, it has no file, or it is pretrained and
            ``seen`` is empty.
    """
    if name == REGRESSION:
        return Entrant(name)
    agent = find_agent(name)
    _, _, path = name.partition("@")
    is_own = ":" in name and not path
    is_trained = path not in ("", FRESH) or _is_prepared(name, envs)
    if is_trained and not seen:
        raise ValueError(
            f"{name!r} was trained before; name what it has seen with --seen, for "
            f"example --seen {DEVELOPMENT[0]}"
        )
    file = Path(path) if path not in ("", FRESH) else None
    if is_own:
        file = _file_of(name, agent)
    source = "" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return Entrant(name, tuple(seen) if is_trained or is_own else (), source)


def _file_of(name: str, agent: Callable[..., None]) -> Path:
    """The file that defines the user's own agent."""
    try:
        found = inspect.getsourcefile(inspect.unwrap(agent))
    except TypeError:  # a callable object
        found = inspect.getsourcefile(type(agent))
    if found is None:
        raise ValueError(
            f"agent {name!r} must be a function in a file, so that its runs can name "
            f"the file's hash"
        )
    return Path(found)


def _is_prepared(name: str, envs: Callable[[], Iterable[gym.Env]]) -> bool:
    """Whether the agent starts from a policy that comes with the package."""
    if name != PREPARED:
        return False
    from n2n_agents.kept import find_trained  # torch

    return any(find_trained(env) is not None for env in envs())
