import csv
import json
import shutil
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from n2n_agents.logs import log_updates
from n2n_agents.reinforce import MODERN, make_policy, train
from n2n_gym.envs import RemoveEnv
from n2n_gym.envs.render import draw_student
from n2n_gym.networks.architecture import Architecture


def test_a_trainings_progress_is_in_all_three_formats(tmp_path):
    env = RemoveEnv(evaluator="size")
    policy, kept = make_policy(env), tmp_path / "policy.pt"
    train(env, policy, MODERN, updates=2, checkpoint=kept)
    # It goes on in another process, say: what is written is all of it nevertheless.
    with log_updates(tmp_path) as log:
        updates = train(env, policy, MODERN, updates=4, checkpoint=kept, on_update=log)
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    text = (tmp_path / "progress.json").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("mean_reward", "best_reward", "loss", "entropy", "gradient"):
        expected = pytest.approx([getattr(update, name) for update in updates])
        assert [float(row[f"reinforce/{name}"]) for row in rows] == expected
        assert [line[f"reinforce/{name}"] for line in lines] == expected
        scalars = events.Scalars(f"reinforce/{name}")
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4]
        assert [scalar.value for scalar in scalars] == expected


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown format 'xml'; known: csv, json"):
        log_updates(tmp_path, ["xml"]).__enter__()


def test_episodes_add_a_histogram_the_best_student_and_its_picture(tmp_path):
    env = RemoveEnv(evaluator="size")
    whole = env.teacher.architecture

    def picture(info):
        return draw_student(whole, Architecture.from_json(info["student"]))

    with log_updates(tmp_path, ["json", "tensorboard"], picture=picture) as log:
        updates = train(
            env,
            make_policy(env),
            MODERN,
            updates=3,
            on_episode=log.episode,
            on_update=log,
        )
    everything = {"histograms": 0, "images": 0}
    events = EventAccumulator(str(tmp_path), everything).Reload()
    histograms = events.Histograms("rewards")
    assert [found.step for found in histograms] == [1, 2, 3]
    assert histograms[0].histogram_value.num == MODERN.rollouts
    assert events.Images("best/student")
    best = max(update.best_reward for update in updates)
    lines = map(json.loads, (tmp_path / "progress.json").read_text().splitlines())
    found = [line for line in lines if "best/reward" in line]
    assert found[-1]["best/reward"] == pytest.approx(best)
    assert found[-1]["best/num_params"] < whole.num_params


def trained(log, updates=2):
    """Updates of a policy that log themselves."""
    env = RemoveEnv(evaluator="size")
    tell = {"on_episode": log.episode, "on_update": log}
    return train(env, make_policy(env), MODERN, updates=updates, **tell)


def test_weights_and_biases_gets_its_own(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with log_updates(tmp_path / "log", ["wandb"]) as log:
        trained(log)
    (kept,) = (tmp_path / "log").glob("wandb/offline-run-*/run-*.wandb")
    # A process of its own writes it, when it comes to it.
    ends = time.monotonic() + 60
    while b"reinforce/mean_reward" not in kept.read_bytes():
        assert time.monotonic() < ends, "nothing came"
        time.sleep(0.1)
    # What goes on in a folder that is written anew goes on with its run.
    name = kept.stem.removeprefix("run-")
    shutil.rmtree(tmp_path / "log")
    with log_updates(tmp_path / "log", ["wandb"]) as log:
        trained(log, updates=3)
    (kept,) = (tmp_path / "log").glob("wandb/offline-run-*/run-*.wandb")
    assert kept.stem.removeprefix("run-") == name


def test_mlflow_gets_its_own(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # no server, no database
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with log_updates(tmp_path / "log", ["mlflow"]) as log:
        updates = trained(log)
    (kept,) = (tmp_path / "mlruns").rglob("metrics/reinforce/mean_reward")
    values = [float(line.split()[1]) for line in kept.read_text().splitlines()]
    assert values == pytest.approx([update.mean_reward for update in updates])
    # A training that goes on adds to its run what is not there yet.
    with log_updates(tmp_path / "log", ["mlflow"]) as log:
        updates = trained(log, updates=3)
    (again,) = (tmp_path / "mlruns").rglob("metrics/reinforce/mean_reward")
    assert again == kept
    values = [float(line.split()[1]) for line in kept.read_text().splitlines()]
    assert values == pytest.approx([update.mean_reward for update in updates])
