import csv
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.logs import log_updates
from agents.reinforce import MODERN, make_policy, train
from n2n_gym.envs import RemoveEnv


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
