"""The agents by name: each takes an environment and ``seed=``, and plays until stopped.

``"reinforce@policy.pt"`` starts from a policy that was trained before, perhaps on
another teacher; ``"frozen@policy.pt"`` plays it as it is. An own agent is any such
function, ``"module:function"``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

import gymnasium as gym

from agents import reinforce, search

Agent: TypeAlias = Callable[..., None]
ENDLESS: Final = 10**9  # updates


def learn(env: gym.Env[Any, Any], settings: reinforce.Settings, *, seed: int) -> None:
    """REINFORCE with the policy that goes with its settings."""
    is_plain = settings is reinforce.PAPER
    policy = reinforce.make_policy(env, seed=seed, is_plain=is_plain)
    reinforce.train(env, policy, settings, updates=ENDLESS, seed=seed)


def go_on(
    env: gym.Env[Any, Any], settings: reinforce.Settings, path: str, *, seed: int
) -> None:
    """REINFORCE from a policy that was trained before."""
    policy = reinforce.load_policy(path)
    reinforce.train(env, policy, settings, updates=ENDLESS, seed=seed)


def _sb3(env: gym.Env[Any, Any], algorithm: str, *, seed: int) -> None:
    from agents import sb3  # an extra

    sb3.search(env, algorithm, seed=seed)


AGENTS: Final[dict[str, Agent]] = {
    "reinforce": partial(learn, settings=reinforce.MODERN),
    "reinforce-paper": partial(learn, settings=reinforce.PAPER),
    "random": search.random_search,
    "uniform": search.uniform,
    "greedy": search.greedy,
    "beam": search.beam_search,
    "evolution": search.evolution,
    "ppo": partial(_sb3, algorithm="PPO"),
    "a2c": partial(_sb3, algorithm="A2C"),
    "dqn": partial(_sb3, algorithm="DQN"),
    "maskable-ppo": partial(_sb3, algorithm="MaskablePPO"),
    "recurrent-ppo": partial(_sb3, algorithm="RecurrentPPO"),
    "qrdqn": partial(_sb3, algorithm="QRDQN"),
    "sac": partial(_sb3, algorithm="SAC"),
    "td3": partial(_sb3, algorithm="TD3"),
}
ABOUT: Final = {
    "reinforce": "a recurrent policy (Ashok et al., 2018), with settings that find "
    "better students in as many episodes",
    "reinforce-paper": "the same with the paper's settings",
    "reinforce@policy.pt": "the first, from a policy that was trained before",
    "frozen@policy.pt": "that policy as it is",
    "random": "random legal actions",
    "uniform": "one action everywhere, each in turn",
    "greedy": "the change that costs the score least, again and again",
    "beam": "beam search",
    "evolution": "ageing evolution of decision sequences (Real et al., 2019)",
    "ppo": "of Stable-Baselines3, reading the rows by attention",
    "a2c": "likewise",
    "dqn": "likewise",
    "maskable-ppo": "of sb3-contrib, with masks",
    "recurrent-ppo": "of sb3-contrib",
    "qrdqn": "of sb3-contrib",
    "sac": "of Stable-Baselines3, for continuous shrinkage",
    "td3": "likewise",
}
# Those that start from the policy of a file.
TRAINED: Final = {"reinforce": reinforce.MODERN, "frozen": reinforce.FROZEN}


def find_agent(name: str) -> Agent:
    """The agent of a name, ``"name@policy.pt"``, or ``"module:function"``.

    Raises:
        ValueError: There is none, or the file holds no policy.
        OSError: There is no such file.
    """
    if name in AGENTS:
        return AGENTS[name]
    kind, at, path = name.partition("@")
    if at and kind in TRAINED:
        reinforce.load_policy(path)
        return partial(go_on, settings=TRAINED[kind], path=path)
    module, colon, function = name.partition(":")
    if not colon:
        forms = ", ".join(f"'{kind}@policy.pt'" for kind in TRAINED)
        raise ValueError(
            f"unknown agent {name!r}; known: {', '.join(AGENTS)}, {forms}, "
            f"'module:function'"
        )
    try:
        found: Agent = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"agent {name!r} cannot be imported: {error}") from error
    return found
