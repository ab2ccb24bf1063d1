"""A suite's policies, from teachers to cards; killed, they come out the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from n2n_agents.kept import card_path, read_trained
from n2n_gym.envs import CompressEnv
from n2n_gym.pretraining.pipeline import pretrain
from n2n_gym.pretraining.suite import read_suite

ROOT = Path(__file__).parent.parent
TEXT = """
stages = ["compress", "remove", "shrink"]
students = 15
corrections = 2
fresh = 2
groups = 2
rollouts = 2

[updates]
compress = 4
remove = 4
shrink = 4

[seeds]
compress = [0, 1]
remove = [0]
shrink = [0, 1]

[targets]
resources = ["num_params", "num_macs"]
training = ["1/10", "1/2"]
test = ["1/3", "1/20"]

[[training]]
teacher = "tests.networks:make_small"
task = "digits:0-4"
family = "small"

[[training]]
teacher = "tests.networks:make_small"
task = "digits:0,1"
family = "small"

[[test]]
teacher = "squeezenet1_1"
task = "digits:5-9"
family = "squeezenet"
"""
# Once one of these is there, the program is killed, and started anew.
KILLS = (
    "students/*.jsonl",
    "predictors/0-0.safetensors",
    "remove-0-0.policy.pt",
    "correction-1.json",
    "shrink-1-2.policy.pt",
    "scores.jsonl",
)


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text(TEXT)
    return path


def start(suite, folder):
    command = [sys.executable, "-m", "tests.pretraining_program", suite, folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def finish(suite, folder):
    process = start(suite, folder)
    assert process.wait() == 0
    return {
        path.name: path.read_bytes()
        for path in (folder / "policies").glob("*.safetensors")
    }


def kill_once_there(suite, folder, pattern):
    process = start(suite, folder)
    while not any(folder.glob(pattern)):
        assert process.poll() is None, f"it ended before there was {pattern}"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_training_goes_on_to_the_same_policies(suite, tmp_path, teacher):
    whole = finish(suite, tmp_path / "whole")
    assert set(whole) == {f"{s}.safetensors" for s in ("compress", "remove", "shrink")}
    for pattern in KILLS:
        kill_once_there(suite, tmp_path / "killed", pattern)
    assert finish(suite, tmp_path / "killed") == whole
    check_seeds(tmp_path / "whole", whole)
    cards = check_cards(tmp_path / "whole")
    trained = read_trained(tmp_path / "whole" / "policies" / "compress.safetensors")
    env = CompressEnv(
        teacher, evaluator="size", constraints={"num_params": 900}, fit=True
    )
    trained.policy.columns_in(env)
    assert cards["compress"]["saw"][0]["teacher"] == "tests.networks:make_small"
    suite.write_text(suite.read_text().replace("students = 15", "students = 16"))
    other = read_suite(suite)
    with pytest.raises(FileExistsError, match="holds a training of another suite"):
        pretrain(other, tmp_path / "whole")


def check_seeds(folder, best):
    """Every policy is there, in a folder for its seed, and the best ones again."""
    found = {
        (path.parent.name, path.name): path.read_bytes()
        for path in (folder / "seeds").glob("*/*.safetensors")
    }
    assert {seed for seed, _ in found} == {"0", "1"}
    assert ("1", "remove.safetensors") not in found
    assert len(found) == 5
    for name, content in best.items():
        assert content in [found[key] for key in found if key[1] == name]


def check_cards(folder):
    found = {}
    for path in (folder / "policies").glob("*.safetensors"):
        card = found[path.stem] = json.loads(card_path(path).read_text())
        # Two groups of two episodes an update, four updates by three ensembles.
        assert card["steps"] % 2 == 0
        assert card["steps"] > 2 * 2 * 4 * 3
        assert card["students"] == 15
        assert card["fresh_students"] == 4
        assert card["cpu_hours"] >= 0
        assert len(card["predictors"]) == 2
        assert [each["students"] for each in card["corrections"]] == [4, 4]
        assert card["entropy"] >= 0
        players = {"trained", "fresh"} | ({"uniform"} & {*card["scores"]["training"]})
        assert set(card["scores"]["training"]) == players
        assert ("uniform" in players) == (path.stem == "compress")
        assert [each["target"] for each in card["scores"]["test"]] == [1 / 3, 1 / 20]
        assert card["limits_of_use"]
    return found
