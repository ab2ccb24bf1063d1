"""The agents by name: functions of an environment and ``seed=``.

Agents play until an exception stops them; some searches end earlier, when they have
nothing left to try. ``"reinforce@policy.pt"`` starts from a trained policy, perhaps of
another teacher. ``"frozen@policy.pt"`` plays a trained policy without further training.
``"rule@file.json"`` and ``"depth-profile@file.json"`` play a file of ``rules``.
``"module:function"`` names your own agent.
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

from n2n_agents import bayesian, imitation, local, reinforce, rollouts, rules, search
from n2n_agents.kept import SUFFIX, find_trained, load_trained

Agent: TypeAlias = Callable[..., None]
CONTINUOUS: Final = ("sac", "td3")  # take continuous actions
ENDLESS: Final = 10**9  # updates
STALE: Final = 50  # after so many episodes without a new student, a policy has settled
APART: Final = 1_000_003  # distance between the seeds of successive trainings


class _Settled(Exception):
    """A policy has found no new student in ``STALE`` episodes."""


def learn(env: gym.Env[Any, Any], *, seed: int, is_prepared: bool = True) -> None:
    """REINFORCE with restarts.

    If a policy of the package suits the environment, the training starts from it. A
    policy that finds no more new students, perhaps in a local optimum, is replaced by a
    fresh one. Repeated students cost nothing, because budgets count distinct students.

    Args:
        is_prepared: Whether a policy that comes with the package may be used.
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
        uniformity = reinforce.MODERN.uniformity
        policy = find_trained(env) if is_prepared and number == 0 else None
        if policy is None:
            policy = reinforce.make_policy(env, seed=mine, uniformity=uniformity)
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
    """REINFORCE as published, with one policy."""
    policy = reinforce.make_policy(env, seed=seed, is_plain=True)
    reinforce.train(env, policy, reinforce.PAPER, updates=ENDLESS, seed=seed)


def go_on(
    env: gym.Env[Any, Any], settings: reinforce.Hyperparameters, path: str, *, seed: int
) -> None:
    """REINFORCE from a trained policy."""
    policy = _load(path, env)
    reinforce.train(env, policy, settings, updates=ENDLESS, seed=seed)


def _load(path: str, env: rollouts.Environment) -> reinforce.Policy:
    """The policy in a file; a safetensors file must be for this environment's stage."""
    if path.endswith(SUFFIX):
        return load_trained(path, env)
    return reinforce.load_policy(path)


def search_from(env: rollouts.Environment, path: str, *, seed: int) -> None:
    """Local search from a policy's likeliest student; the policy draws the changes."""
    local.local_search(env, seed=seed, policy=_load(path, env))


def _sb3(env: gym.Env[Any, Any], algorithm: str, *, seed: int) -> None:
    from n2n_agents import sb3  # an extra

    sb3.search(env, algorithm, seed=seed)


AGENTS: Final[dict[str, Agent]] = {
    "reinforce": learn,
    "reinforce@none": partial(learn, is_prepared=False),
    "reinforce-paper": learn_as_the_paper,
    "random": search.random_search,
    "random-within": search.random_within,
    "uniform": search.uniform,
    "greedy": search.greedy,
    "beam": search.beam_search,
    "evolution": search.evolution,
    "local": local.local_search,
    "bayesian": bayesian.bayesian,
    "imitation": imitation.imitate,
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
    "reinforce": "REINFORCE with a recurrent policy (Ashok et al., 2018), better "
    "settings than the paper's, and restarts",
    "reinforce-paper": "REINFORCE with the paper's settings",
    "reinforce@policy.pt": "REINFORCE from a trained policy",
    "reinforce@none": "REINFORCE from a fresh policy, even where the package has one",
    "frozen@policy.pt": "a trained policy, without further training",
    "random": "random legal actions",
    "random-within": "random students that keep the limits",
    "uniform": "one action at every decision; each action in turn",
    "greedy": "greedy search: always the change that costs the least reward",
    "beam": "beam search",
    "evolution": "ageing evolution of decision sequences (Real et al., 2019)",
    "local": "local search: a few changes of the best so far, starting from one rate "
    "for all widths",
    "local@policy.pt": "the same from a policy's best actions; the policy draws the "
    "changes",
    "bayesian": "a Gaussian process over actions and sizes chooses the next students",
    "imitation": "a recurrent policy that imitates the best so far (Abolafia et al., "
    "2018)",
    "depth-profile@file.json": "mean rates and probabilities of removal by depth, from "
    "a file",
    "rule@file.json": "a rule with one threshold for removals, one for widths and one "
    "for kernels, from a file",
    "ppo": "PPO of Stable-Baselines3, with attention over the rows",
    "a2c": "A2C of Stable-Baselines3, with attention over the rows",
    "dqn": "DQN of Stable-Baselines3, with attention over the rows",
    "maskable-ppo": "MaskablePPO of sb3-contrib, with masks",
    "recurrent-ppo": "RecurrentPPO of sb3-contrib",
    "qrdqn": "QR-DQN of sb3-contrib",
    "sac": "SAC of Stable-Baselines3, for continuous shrinkage",
    "td3": "TD3 of Stable-Baselines3, for continuous shrinkage",
}
# Agents that keep limits on computed resources by themselves, without a strict mask.
FORESEEING: Final = ("local", "bayesian", "imitation", "random-within")
# Agents that play all rows of a vector environment together.
BATCHED: Final = ("random", *FORESEEING)
# Agents that start from a policy file.
TRAINED: Final[dict[str, Agent]] = {
    "reinforce": partial(go_on, settings=reinforce.MODERN),
    "frozen": partial(go_on, settings=reinforce.FROZEN),
    "local": search_from,
}
# Agents that play a JSON file, and the functions that read it.
WRITTEN: Final[dict[str, tuple[Agent, Callable[[str], object]]]] = {
    "depth-profile": (rules.play_profile, rules.read_profile),
    "rule": (rules.play_rule, rules.read_rule),
}


def find_agent(name: str) -> Agent:
    """The agent called ``"name"``, ``"name@file"`` or ``"module:function"``.

    Raises:
        ValueError: There is no such agent, its library is not installed, or the file
            does not hold what this agent plays.
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
        return partial(TRAINED[kind], path=path)
    if at and kind in WRITTEN:
        play, read = WRITTEN[kind]
        read(path)
        return partial(play, path=path)
    module, colon, function = name.partition(":")
    if not colon:
        forms = ", ".join(
            [f"'{kind}@policy.pt'" for kind in TRAINED]
            + [f"'{kind}@file.json'" for kind in WRITTEN]
        )
        raise ValueError(
            f"unknown agent {name!r}; known: {', '.join(AGENTS)}, {forms}, "
            f"'module:function'"
        )
    try:
        found: Agent = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"agent {name!r} cannot be imported: {error}") from error
    return found
