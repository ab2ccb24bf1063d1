import json

import pytest
from typer.testing import CliRunner

from envs_registry import BENCH, PRESETS
from n2n_gym.cli import app
from n2n_gym.comparison.judges import Refused, judge_of
from n2n_gym.comparison.runner import Results, compare, perform, plan
from n2n_gym.comparison.validation import validate
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.teachers import learning

SIZE = {"teacher": "vgg11_bn", "evaluator": "size"}
SCORED = {"teacher": "shufflenet_v2_x0_5", "evaluator": "inherit", "store": False}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of both stages that cost nothing to score."""
    path = tmp_path_factory.mktemp("valid") / "results.jsonl"
    envs = [
        ("n2n_gym:N2NRemove-v0", SIZE),
        ("N2NShrink-v0", {**SIZE, "action": "continuous"}),
    ]
    compare(plan(envs, ["random"], range(2), evaluations=4), path)
    return path


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Results whose students were distilled."""
    path = tmp_path_factory.mktemp("scored") / "results.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        recipe = Recipe(epochs=8, batch_size=32, learning_rate=0.1)
        patch.setattr(learning, "teacher_recipe", lambda *_: recipe)
        (one,) = plan([("N2NRemove-v0", SCORED)], ["random"], [0], evaluations=4)
        Results(path).add(perform(one))
        yield path


def edited(path, folder, change, kind="evaluation"):
    """A copy of a file in which one line is another."""
    lines = list(Results(path).lines())
    change(next(line for line in lines if line["kind"] == kind))
    copy = folder / "edited.jsonl"
    copy.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return copy


def test_a_file_as_it_was_written_is_accepted(results):
    found = validate(results)
    assert (found.runs, found.students, found.rescored) == (4, 16, [])


@pytest.mark.slow
def test_scores_are_found_again_within_their_noise(scored):
    found = validate(scored)
    assert (found.runs, found.students, len(found.rescored)) == (1, 4, 4)
    for one in found.rescored:
        assert one.claimed == one.found  # the same machine, the same score
        assert 0 < one.tolerance < 0.3
    assert len(validate(scored, rescore=2).rescored) == 2
    assert validate(scored, rescore=0).rescored == []


def put(name, value, inside=None):
    def change(line):
        target = line if inside is None else line[inside]
        target[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (put("reward", 0.9999), "evaluation", "the reward of its accuracy is"),
        (put("accuracy", 0.5, "info"), "evaluation", "of 0.5 that nothing measured"),
        (put("teacher_accuracy", 0, "info"), "evaluation", "of 0 that nothing"),
        (put("accuracy", 1.5, "info"), "evaluation", "an accuracy of 1.5"),
        (put("num_params", 1, "info"), "evaluation", "num_params is"),
        (put("fingerprint", "x", "info"), "evaluation", "fingerprint is"),
        (put("actions", [0]), "evaluation", "1 decisions do not end an episode"),
        (put("actions", [0] * 99), "evaluation", "there are decisions after the end"),
        (put("actions", [7] * 8), "evaluation", "action 7 is not in Discrete"),
        (put("number", 2), "evaluation", "it should be number 1"),
        (put("cost", 1.0), "evaluation", "the cost so far is 0"),
        (put("episodes", 0), "evaluation", "episodes do not go up"),
        (put("seed", 7), "evaluation", "has the fields of run"),
        (put("students", 3), "end", "students are missing"),
        (put("cost", 3.0), "end", "the cost is 0"),
        (put("kind", "end"), "evaluation", "a line with students None"),
        (put("kind", "x"), "evaluation", "kind 'x' is not validated; known: end"),
        (put("number", None), "evaluation", "a line with number None"),
        (put("episodes", "x"), "evaluation", "a line with episodes 'x'"),
        (put("actions", 3), "evaluation", "a line with actions 3"),
        (put("actions", ["x"]), "evaluation", "decisions that are no numbers"),
        (put("info", []), "evaluation", r"a line with info \[\]"),
    ],
)
def test_an_edited_file_is_refused(results, tmp_path, change, kind, message):
    with pytest.raises(Refused, match=message):
        validate(edited(results, tmp_path, change, kind))


def test_a_run_without_an_end_and_one_with_two_are_refused(results, tmp_path):
    lines = [json.dumps(line) + "\n" for line in Results(results).lines()]
    path = tmp_path / "edited.jsonl"
    for edited_lines in (lines[:-1], [*lines, lines[-1]]):
        path.write_text("".join(edited_lines))
        with pytest.raises(Refused, match="followed by one end"):
            validate(path)
    line = json.loads(lines[-1])
    path.write_text(json.dumps({**line, "actions": 3}) + "\n")
    with pytest.raises(Refused, match="students are missing"):
        validate(path)


def test_a_better_score_that_agrees_with_itself_is_refused(scored, tmp_path):
    lines = [line for line in Results(scored).lines() if line["kind"] == "evaluation"]
    rewards = [line["reward"] for line in lines]
    factor = 0.99 * max(rewards) / min(rewards)  # nearly as good as the best
    lowest = rewards.index(min(rewards))
    positions = iter(range(len(lines)))
    copy = tmp_path / "edited.jsonl"
    with copy.open("w") as file:
        for line in Results(scored).lines():
            if line["kind"] == "evaluation" and next(positions) == lowest:
                line["info"]["accuracy"] *= factor
                line["reward"] *= factor
            file.write(json.dumps(line) + "\n")
    with pytest.raises(Refused, match="but scoring again gives"):
        validate(copy)


def test_a_cheaper_student_is_refused(scored, tmp_path):
    with pytest.raises(Refused, match="the student's cost is"):
        validate(edited(scored, tmp_path, put("cost", 0.1, "info")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": "stranger:make"}, "teacher 'stranger:make' is not validated"),
        ({"task": "stranger:make"}, "task 'stranger:make' is not validated"),
        ({"task": "images.npz"}, "task 'images.npz' is not validated"),
        ({"evaluator": "stranger:score"}, "evaluator 'stranger:score' is not"),
        ({"evaluator": "map.json"}, "evaluator 'map.json' is not validated"),
        ({"reward": "latency"}, "reward 'latency' is not validated"),
        ({"reward": "stranger:reward"}, "reward 'stranger:reward' is not validated"),
        ({"weights": "stranger.pt"}, "the argument 'weights' is not validated"),
        ({"start": "stranger.json"}, "the argument 'start' is not validated"),
    ],
)
def test_a_strangers_file_imports_and_opens_nothing(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(f"open({str(ran)!r}, 'w')")
    path = tmp_path / "results.jsonl"
    (one,) = plan([("N2NRemove-v0", SIZE)], ["random"], [0], evaluations=1)
    lines = perform(one)
    for line in lines:
        line["arguments"] = {**line["arguments"], **arguments}
        about = {name: line[name] for name in ("env", "agent", "seed")}
        about |= {name: line[name] for name in ("arguments", "epochs", "evaluations")}
        line["run"] = json.dumps(about, sort_keys=True)
    Results(path).add(lines)
    with pytest.raises(Refused, match=message):
        validate(path)
    assert not ran.exists()


@pytest.mark.parametrize("env", ["stranger:N2NRemove-v0", "CartPole-v1"])
def test_a_strangers_environment_is_refused(results, tmp_path, env):
    def change(line):
        line["env"] = env
        about = {name: line[name] for name in ("agent", "seed", "arguments")}
        about |= {name: line[name] for name in ("env", "epochs", "evaluations")}
        line["run"] = json.dumps(about, sort_keys=True)

    lines = [line for line in Results(results).lines() if line["seed"] == 0]
    for line in lines:
        change(line)
    path = tmp_path / "results.jsonl"
    Results(path).add(lines)
    with pytest.raises(Refused, match=f"env '{env}' is not validated"):
        validate(path)


def test_the_command_says_what_it_found(results, tmp_path):
    done = CliRunner().invoke(app, ["validate", str(results)])
    assert done.exit_code == 0, done.stderr
    assert "Valid: 4 runs, 16 students replayed, 0 scored anew" in done.stdout
    wrong = edited(results, tmp_path, put("reward", 2.0))
    refused = CliRunner().invoke(app, ["validate", str(wrong)])
    assert refused.exit_code == 1
    assert "the reward of its accuracy is" in refused.stderr
    missing = CliRunner().invoke(app, ["validate", "nowhere.jsonl"])
    assert missing.exit_code == 1
    assert "there is no file nowhere.jsonl" in missing.stderr


@pytest.mark.parametrize("name", [*PRESETS, *BENCH])
def test_every_preset_and_task_can_be_judged(name):
    judge_of({"env": name, "arguments": {}}, None)


def test_runs_on_a_table_must_have_its_figures(tmp_path):
    path, task = tmp_path / "results.jsonl", next(iter(BENCH))
    compare(plan([(f"n2n_gym:{task}", {})], ["random"], [0], evaluations=5), path)
    assert validate(path).students == 5

    def set_in_info(name):
        return lambda line: line["info"].update({name: 0.9})

    for change, message in (
        (put("reward", 0.9), "the table's reward"),
        (set_in_info("accuracy"), "accuracy is"),
        (set_in_info("test_regret"), "test_regret is"),
        (set_in_info("cost"), "cost is"),
    ):
        with pytest.raises(Refused, match=message):
            validate(edited(path, tmp_path, change))
    with pytest.raises(Refused, match="the task determines its arguments"):
        judge_of({"env": task, "arguments": {"noise": "seed"}}, None)
