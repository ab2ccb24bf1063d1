"""The agents by name: each takes an environment and ``seed=``, and plays until stopped.

``"reinforce@policy.pt"`` starts from a policy that was trained before, perhaps on
another teacher; ``"frozen@policy.pt"`` plays it as it is. An own agent is any such
function, ``"module:function"``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Final, TypeAlias

import gymnasium as gym

from n2n_agents import reinforce, search

Agent: TypeAlias = Callable[..., None]
CONTINUOUS: Final = ("sac", "td3")  # take continuous actions
ENDLESS: Final = 10**9  # updates
STALE: Final = 50  # episodes in a row without a new student: a policy has settled
APART: Final = 1_000_003  # seeds of trainings that follow one another


class _Settled(Exception):
    """A policy only repeats itself."""


def learn(env: gym.Env[Any, Any], *, seed: int) -> None:
    """REINFORCE; whenever its policy has settled, another one from the beginning.

    Where a policy settles is sometimes no more than a local optimum. What it repeats on
    the way costs nothing, as only distinct students do.
    """
    seen: set[str] = set()
    stale = 0

    def look(episode: reinforce.Episode) -> None:
        nonlocal stale
        name = episode.info["fingerprint"]
        stale = stale + 1 if name in seen else 0
        seen.add(name)
        if stale == STALE:
            raise _Settled

    for number in count():
        stale = 0
        mine = seed + APART * number
        policy = reinforce.make_policy(env, seed=mine)
        with suppress(_Settled):
            reinforce.train(
                env,
                policy,
                reinforce.MODERN,
                updates=ENDLESS,
                seed=mine,
                on_episode=look,
            )


def learn_as_the_paper(env: gym.Env[Any, Any], *, seed: int) -> None:
    """REINFORCE as it was published: one policy."""
    policy = reinforce.make_policy(env, seed=seed, is_plain=True)
    reinforce.train(env, policy, reinforce.PAPER, updates=ENDLESS, seed=seed)


def go_on(
    env: gym.Env[Any, Any], settings: reinforce.Hyperparameters, path: str, *, seed: int
) -> None:
    """REINFORCE from a policy that was trained before."""
    policy = reinforce.load_policy(path)
    reinforce.train(env, policy, settings, updates=ENDLESS, seed=seed)


def _sb3(env: gym.Env[Any, Any], algorithm: str, *, seed: int) -> None:
    from n2n_agents import sb3  # an extra

    sb3.search(env, algorithm, seed=seed)


AGENTS: Final[dict[str, Agent]] = {
    "reinforce": learn,
    "reinforce-paper": learn_as_the_paper,
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
    "better students in as many episodes; begins anew where it has settled",
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
        ValueError: There is none, it is of a library that is not installed, or the
            file holds no policy.
        OSError: There is no such file.
    """
    if name in AGENTS:
        agent = AGENTS[name]
        if isinstance(agent, partial) and agent.func is _sb3:
            if importlib.util.find_spec("sb3_contrib") is None:
                raise ValueError(f"agent {name!r} needs pip install 'n2n-gym[sb3]'")
        return agent
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
