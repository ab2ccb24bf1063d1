"""RLlib, in a process that finds its Gymnasium and what else it needs first."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_settings import SETTINGS, STAGES

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained() -> dict:
    if "N2N_RLLIB" not in os.environ:
        pytest.skip(
            "N2N_RLLIB, the folder with RLlib's Gymnasium and requirements, is not "
            "set; .ci/run makes one"
        )
    first = os.pathsep.join([os.environ["N2N_RLLIB"], str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.rllib_training"],
        env=os.environ | {"PYTHONPATH": first, "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_runs_with_the_gymnasium_that_rllib_asks_for(trained):
    asked = importlib.metadata.requires("ray") or []
    version = trained["gymnasium"]
    assert any(one.startswith(f"gymnasium=={version};") for one in asked)


@pytest.mark.parametrize("way", ["masked", "by_id"])
def test_ppo_learns(trained, way):
    changed, returns = trained[way]["changed"], trained[way]["returns"]
    read, decide = "encoder.actor_encoder.net.mlp.0.weight", "pi.net.mlp.0.weight"
    assert {read, decide} <= set(changed)
    assert returns[-1] > max(0.95, returns[0])


def test_masks_are_respected_and_returns_are_the_environments(trained):
    assert not trained["masked"]["was_illegal"]
    returns = trained["masked"]["returns"]
    values = np.reshape(trained["masked"]["values"], (len(returns), -1))
    np.testing.assert_allclose(values.mean(1), returns)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", STAGES)
def test_every_environment_is_played_with_every_setting(trained, name, setting):
    assert trained["settings"][f"{name} {setting}"] >= 8
