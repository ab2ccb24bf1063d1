import hashlib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

import n2n_gym  # noqa: F401  registers the ids
from envs_registry import PRESETS
from envs_registry.presets import as_markdown
from n2n_gym.cli import app
from n2n_gym.comparison.judges import Refused
from n2n_gym.comparison.runner import Results, perform, plan
from n2n_gym.comparison.validation import validate
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.teachers import learning

PAGE = Path(__file__).parent.parent / "docs" / "presets.md"
NAME = "N2N/Remove-Digits-VGG11-v0"
# SHA-256 of the students and rewards of fifty random episodes on "size", as they were
# before the columns and the rule of kernels changed.
AS_PUBLISHED = {
    "N2N/Remove-Digits-ResNet18-v0": "5669c0426313caa1",
    "N2N/Shrink-Digits-ResNet18-v0": "bb0fceae4afc5bae",
    "N2N/Remove-Digits-VGG11-v0": "f40bf82c14b9ee69",
    "N2N/Shrink-Digits-VGG11-v0": "d161ef98d16ef154",
    "N2N/Remove-Digits-MobileNetV2-v0": "21ecad4eb06d52da",
    "N2N/Shrink-Digits-MobileNetV2-v0": "c886db59f4d06894",
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_environment_with_fixed_arguments(name):
    env = gym.make(name, evaluator="size")
    preset = PRESETS[name]
    same = gym.make(preset.env, **{**preset.arguments, "evaluator": "size"})
    assert env.unwrapped.decisions == same.unwrapped.decisions
    assert env.spec.kwargs.keys() == preset.arguments.keys()
    vector = gym.make_vec(name, num_envs=2, evaluator="size")
    assert vector.single_observation_space == env.observation_space


@pytest.mark.parametrize("name", PRESETS)
def test_actions_lead_to_the_students_and_rewards_that_they_always_led_to(name):
    env = gym.make(name, evaluator="size")
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    for _ in range(50):
        _, info = env.reset()
        reward, is_over = 0.0, False
        while not is_over:
            offered = np.flatnonzero(info["action_mask"])
            action = offered[int(rng.random() * len(offered))]
            _, reward, is_over, _, info = env.step(int(action))
        digest.update(info["fingerprint"].encode() + repr(reward).encode())
    assert digest.hexdigest().startswith(AS_PUBLISHED[name])


def test_the_page_is_made_from_the_registry():
    assert PAGE.read_text() == as_markdown()


def test_the_command_compares_on_a_preset(tmp_path):
    options = ["--env", NAME, "--agents", "random", "--evaluations", "2"]
    options += ["--workers", "1", "--seeds", "1", "--output", str(tmp_path)]
    refused = CliRunner().invoke(app, ["compare", *options, "--teacher", "alexnet"])
    assert refused.exit_code == 1
    assert f"{NAME} has its own teacher, task and evaluator" in refused.stderr


@pytest.mark.slow
def test_its_results_are_validated(tmp_path, monkeypatch):
    recipe = Recipe(epochs=8, batch_size=32, learning_rate=0.1)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    path = tmp_path / "results.jsonl"
    (one,) = plan([(NAME, {"store": False})], ["random"], [0], evaluations=2)
    Results(path).add(perform(one))
    found = validate(path, rescore=1)
    assert (found.students, len(found.rescored)) == (2, 1)


def test_what_is_scored_otherwise_is_not_its_result(tmp_path):
    path = tmp_path / "results.jsonl"
    (one,) = plan([(NAME, {"evaluator": "size"})], ["random"], [0], evaluations=1)
    Results(path).add(perform(one))
    with pytest.raises(Refused, match=r"determines its arguments.*not set evaluator"):
        validate(path)
