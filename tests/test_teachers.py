import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from n2n_gym.compression.pipeline import compress
from n2n_gym.compression.plan import TooShort
from n2n_gym.envs import RemoveEnv
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.trace import trace
from n2n_gym.runs.options import Options
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.sets import digits
from n2n_gym.tasks.task import Task
from n2n_gym.teachers import learning, providing
from n2n_gym.teachers.learning import teacher_recipe, train_network
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.store import kept_teachers
from n2n_gym.teachers.teacher import Teacher
from n2n_gym.teachers.watch import TakesTooLong, refused_after, watched_batches
from n2n_gym.teachers.zoo import teacher_architecture
from tests.networks import PlainNet, SmallResNet

RECIPE = Recipe(epochs=1, batch_size=32, learning_rate=0.05, largest_gradient=1.0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a teacher that takes a second: SqueezeNet for one epoch."""
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: RECIPE)
    return tmp_path / "teachers"


def small_teacher() -> Teacher:
    return load_teacher("squeezenet1_1", "digits", device="cpu")


def test_nothing_is_trained_before_it_is_needed(cache):
    teacher = small_teacher()
    assert teacher.architecture.num_outputs == 10
    assert not cache.exists()


def test_a_teacher_is_trained_once_and_kept(cache, caplog):
    caplog.set_level(logging.INFO)
    first = small_teacher()
    assert 0 < first.score.accuracy <= 1
    second = small_teacher()
    assert second.score == first.score
    assert second.fingerprint == first.fingerprint
    assert torch.equal(second.trained.logits, first.trained.logits)
    assert len([r for r in caplog.records if "on validation" in r.message]) == 1
    about = json.loads(next(cache.glob("*.json")).read_text())
    assert about["validation_accuracy"] == first.score.accuracy


@pytest.mark.parametrize(
    "damage", ["truncated", "changed", "no json", "no weights", "null", '{"sha256": 1}']
)
def test_a_damaged_teacher_is_named_and_trained_again(cache, caplog, damage):
    first = small_teacher()
    accuracy = first.score.accuracy
    (path,) = cache.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        path.write_bytes(content[:-4] + b"\x00\x01\x02\x03")
    elif damage == "no json":
        path.with_suffix(".json").unlink()
    elif damage == "no weights":
        path.unlink()
    else:
        path.with_suffix(".json").write_text(damage)
    second = small_teacher()
    assert second.score.accuracy == accuracy  # the same training again
    assert second.fingerprint == first.fingerprint
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert str(path) in record.message
    assert path.read_bytes() == content


def test_an_agent_in_inference_mode_can_have_its_teacher_trained(cache):
    evaluator = DistillationEvaluator(
        Rung("quick", recipe=RECIPE), device="cpu", precision="float32"
    )
    teacher = load_teacher("squeezenet1_1", digits(), device="cpu")
    with torch.inference_mode():
        (score,) = evaluator([teacher.architecture], teacher)
        reference = evaluator.score_teacher(teacher)
    assert 0 < score.accuracy <= 1
    assert reference == teacher.score


@pytest.mark.slow
def test_two_processes_that_ask_at_once_train_it_once(tmp_path):
    program = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "import torch; torch.set_num_threads(1)\n"
        "from n2n_gym.teachers import learning\n"
        "from tests.test_teachers import RECIPE, small_teacher\n"
        "learning.teacher_recipe = lambda *_: RECIPE\n"
        "print(small_teacher().fingerprint)\n"
    )
    environment = {**os.environ, "N2N_CACHE": str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum("on validation" in errors for _, errors in outputs) == 1


def test_an_unknown_teacher_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown teacher 'resnet19'; .*resnet18, .*'module:function'"
    ):
        load_teacher("resnet19")


def test_a_teacher_and_a_task_that_do_not_fit_are_refused(task):
    architecture = trace(SmallResNet(channels=3), (3, 8, 8))
    with pytest.raises(ValueError, match=r"takes \(3, 8, 8\) .* are \(1, 8, 8\)"):
        Teacher("colour", task, architecture, lambda: None)
    architecture = trace(SmallResNet(classes=7), (1, 8, 8))
    with pytest.raises(ValueError, match="7 classes, task digits has 10"):
        Teacher("seven", task, architecture, lambda: None)


def test_a_teacher_of_another_task_is_refused(teacher, task):
    assert load_teacher(teacher, digits()) is teacher  # equal data, another object
    data = dict(task.read())
    data["train"] = (data["train"][0] // 2, data["train"][1])
    other = Task("dark digits", task.input_shape, 10, lambda: data)
    with pytest.raises(
        ValueError, match="was trained on task digits, not on dark digits"
    ):
        load_teacher(teacher, other)


class BusyClock:
    """On a machine so busy that a minute passes between two looks at the clock."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        self.seconds += 60
        return self.seconds


def score_of_a_student(task) -> float:
    env = RemoveEnv(small_of(task), evaluator="inherit", device="cpu")
    env.reset()
    info = {}
    while not env.is_complete:
        *_, info = env.step(0)
    return info["teacher_accuracy"]


def small_of(task, **arguments) -> Teacher:
    return load_teacher(
        "tests.networks:make_small", task, device="cpu", epochs=1, **arguments
    )


LONG_TRAININGS = {
    "a function's": lambda task: small_of(task).score.accuracy,
    "asked for": lambda task: small_of(task, train_teacher=True).score.accuracy,
    "again": lambda task: small_of(task, again=True).score.accuracy,
    "an architecture's": lambda task: (
        load_teacher(
            trace(SmallResNet(), task.input_shape), task, device="cpu", epochs=1
        ).score.accuracy
    ),
    "in a step": score_of_a_student,
}


@pytest.mark.parametrize("use", LONG_TRAININGS.values(), ids=LONG_TRAININGS)
def test_a_long_training_is_announced_with_its_end_and_done(
    use, task, cache, monkeypatch, caplog
):
    monkeypatch.setattr(learning, "time", BusyClock())
    before = datetime.now()
    assert 0 < use(task) <= 1
    # 1,077 images are 33 steps of 32. Four of them took a minute, 27 are left: 405 s.
    (line,) = [r.getMessage() for r in caplog.records if "training" in r.getMessage()]
    assert "takes about 7 more minutes" in line
    ends = {f"until {before + timedelta(seconds=405 + x):%H:%M}" for x in (0, 60, 120)}
    assert any(end in line for end in ends)


@pytest.mark.parametrize("use", LONG_TRAININGS.values(), ids=LONG_TRAININGS)
def test_a_training_that_there_is_no_time_for_is_refused(use, task, cache, monkeypatch):
    monkeypatch.setattr(learning, "time", BusyClock())
    with (
        refused_after(400),
        pytest.raises(TakesTooLong, match="takes about 7 minutes"),
    ):
        use(task)
    with refused_after(410):
        assert 0 < use(task) <= 1


@pytest.mark.parametrize(
    ("minutes", "said"), [("5", "5"), ("0.5", "0.5"), ("8m", "8"), ("1s", "0.0167")]
)
def test_minutes_that_are_too_few_say_how_many_are_not(
    cache, monkeypatch, tmp_path, minutes, said
):
    monkeypatch.setattr(learning, "time", BusyClock())
    recipe = Recipe(1, 32)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    options = Options(
        teacher="tests.networks:make_small", minutes=minutes, output=tmp_path / "run"
    )
    message = rf"leaves too little of {said}; at least 1\d minutes make sense"
    with pytest.raises(TooShort, match=message):  # 405 s, and a third of that
        compress(options)


@pytest.mark.parametrize(
    ("seconds", "longest", "at"),
    [
        ([5] * 10, 30, 2),  # eight more batches of five seconds are too many
        ([5] * 10, 60, None),
        ([5] * 4 + [20] * 6, 60, 7),  # the estimate was too low
        ([0.1] * 3 + [50] * 7, 100, 4),  # judged after two seconds
    ],
)
def test_logits_that_there_is_no_time_for_are_refused(
    seconds, longest, at, monkeypatch
):
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("n2n_gym.teachers.watch.time", clock)
    with refused_after(longest, lambda: None):
        after = watched_batches("computing the logits of net", 1_000)
        for each in seconds[: 10 if at is None else at - 1]:
            now += each
            after(100)
        if at is not None:
            now += seconds[at - 1]
            with pytest.raises(TakesTooLong, match="the logits of net takes about"):
                after(100)


def test_a_given_teacher_that_takes_too_long_to_score_is_refused(
    cache, monkeypatch, tmp_path
):
    """One minute for a network whose logits alone take longer."""
    clock = iter(range(0, 10**6, 10))  # ten seconds a batch
    monkeypatch.setattr(
        "n2n_gym.teachers.watch.time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    options = Options(
        teacher="tests.networks:make_small",
        weights="own",
        minutes="1",
        output=tmp_path / "run",
    )
    with pytest.raises(TooShort, match=r"computing the logits of .* make sense here"):
        compress(options)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_short_training_is_not_announced(task, cache, caplog):
    small_of(task).score  # noqa: B018
    assert "more minutes" not in caplog.text


def test_whether_it_may_take_long_makes_no_other_teacher(task, cache):
    one, two = small_of(task), small_of(task, train_teacher=True)
    assert one.identity == two.identity
    assert len(kept_teachers()) == 1


def test_recipes_are_longer_in_epochs_on_small_data(task):
    architecture = trace(SmallResNet(), task.input_shape)
    small = teacher_recipe(task, architecture)
    data = dict(task.read())
    images, labels = data["train"]
    data["train"] = (images.repeat(10, 0), labels.repeat(10))
    large = replace(task, read=lambda: data)
    assert teacher_recipe(large, architecture).epochs < small.epochs
    data["train"] = (images[:100], labels[:100])
    tiny = replace(task, read=lambda: data)
    assert teacher_recipe(tiny, architecture).batch_size == 12
    assert teacher_recipe(tiny, architecture).epochs == 300 // (100 // 12)


# A training that is stopped


class Stopped(Exception):
    pass


def small_training(task: Task, checkpoint, epochs: int = 4):
    architecture = trace(SmallResNet(), task.input_shape)
    recipe = replace(RECIPE, epochs=epochs)
    return train_network(
        "small", task, architecture, recipe, torch.device("cpu"), checkpoint=checkpoint
    )


@pytest.fixture
def count_epochs(monkeypatch):
    """A list that grows by one with each epoch that is trained."""
    epochs: list[int] = []
    compute = learning.compute_accuracy

    def counted(*arguments):
        epochs.append(1)
        return compute(*arguments)

    monkeypatch.setattr(learning, "compute_accuracy", counted)
    monkeypatch.setattr(learning, "KEEP_EVERY", 0.0)
    return epochs


@pytest.mark.parametrize("stop_in_epoch", [0, 1, 3])
def test_a_training_that_was_stopped_goes_on_to_the_same_teacher(
    task, tmp_path, monkeypatch, count_epochs, stop_in_epoch
):
    augmented = replace(task, augmentation=Augmentation(padding=1, flip=True))
    whole = small_training(augmented, None)
    checkpoint = tmp_path / "small.checkpoint"
    keep = learning._Lesson._keep

    def stop(lesson, *arguments, **options):
        if len(count_epochs) == stop_in_epoch + 1:
            raise Stopped
        keep(lesson, *arguments, **options)

    count_epochs.clear()
    with monkeypatch.context() as patched:
        patched.setattr(learning._Lesson, "_keep", stop)
        with pytest.raises(Stopped):
            small_training(augmented, checkpoint)
    assert checkpoint.exists() == (stop_in_epoch > 0)
    count_epochs.clear()
    resumed = small_training(augmented, checkpoint)
    assert len(count_epochs) == 4 - stop_in_epoch
    assert resumed.accuracy == whole.accuracy
    for name, tensor in whole.weights.items():
        assert torch.equal(resumed.weights[name], tensor)


@pytest.mark.slow
def test_a_killed_training_goes_on(cache, tmp_path, count_epochs):
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "from n2n_gym import load_teacher\n"
        "from n2n_gym.teachers import learning\n"
        "from tests.test_teachers import RECIPE\n"
        "learning.teacher_recipe = lambda *_: RECIPE\n"
        "learning.KEEP_EVERY = 0.0\n"
        "load_teacher('tests.networks:make_small', epochs=60, device='cpu').score\n"
    )
    environment = {**os.environ, "N2N_CACHE": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    deadline = time.monotonic() + 120
    while not list(cache.glob("*.checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    (checkpoint,) = cache.glob("*.checkpoint")
    done = torch.load(checkpoint, weights_only=True)["training"]["epoch"]
    assert 1 <= done < 60
    teacher = load_teacher("tests.networks:make_small", epochs=60, device="cpu")
    assert teacher.score.accuracy > 0.9
    assert len(count_epochs) == 60 - done
    assert not checkpoint.exists()


def test_a_training_that_is_done_but_not_kept_yet_is_not_done_again(
    cache, monkeypatch, count_epochs
):
    def stop(*_):
        raise Stopped

    teacher = load_teacher("tests.networks:make_small", device="cpu", epochs=2)
    with monkeypatch.context() as patched:
        patched.setattr(providing, "save_trained", stop)
        with pytest.raises(Stopped):
            teacher.score  # noqa: B018
    assert len(count_epochs) == 2
    assert teacher.score.accuracy > 0
    assert len(count_epochs) == 2


def test_another_augmentation_is_another_teacher(cache, task, count_epochs):
    augmented = replace(task, augmentation=Augmentation(padding=1))
    for number, data in enumerate((task, augmented, task, augmented)):
        teacher = load_teacher("tests.networks:make_small", data, device="cpu")
        assert teacher.score.accuracy > 0
        assert len(count_epochs) == min(number + 1, 2)


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_training_has_an_epoch_at_least(epochs):
    with pytest.raises(ValueError, match=f"at least 1, got {epochs}"):
        load_teacher("squeezenet1_1", epochs=epochs)


def test_a_damaged_checkpoint_is_named_and_the_training_starts_anew(
    task, tmp_path, caplog
):
    checkpoint = tmp_path / "small.checkpoint"
    checkpoint.write_bytes(b"nothing of use")
    assert small_training(task, checkpoint, epochs=1).accuracy > 0
    assert str(checkpoint) in caplog.text


def test_a_checkpoint_of_another_recipe_is_not_gone_on_with(
    task, tmp_path, monkeypatch
):
    monkeypatch.setattr(learning, "KEEP_EVERY", 0.0)
    checkpoint = tmp_path / "small.checkpoint"
    whole = small_training(task, None, epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr(learning, "compute_logits", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            small_training(task, checkpoint, epochs=2)
    assert checkpoint.exists()
    assert small_training(task, checkpoint, epochs=1).accuracy == whole.accuracy


def test_a_training_that_diverges_starts_again_at_a_lower_rate(task, caplog):
    architecture = trace(PlainNet(), task.input_shape)
    recipe = Recipe(epochs=3, batch_size=32, learning_rate=3.0)
    trained = train_network("plain", task, architecture, recipe, torch.device("cpu"))
    assert "the loss became nan at the learning rate 3" in caplog.text
    assert trained.accuracy > 0.5


def test_a_training_that_learns_nothing_starts_again_early(task, caplog, monkeypatch):
    steps = []
    judge = learning._Lesson._judge
    monkeypatch.setattr(
        learning._Lesson, "_judge", lambda *a: (steps.append(1), judge(*a))
    )
    architecture = trace(PlainNet(), task.input_shape)
    recipe = Recipe(epochs=10, batch_size=32, learning_rate=1.0, largest_gradient=10.0)
    trained = train_network("plain", task, architecture, recipe, torch.device("cpu"))
    assert "is no better than chance" in caplog.text
    assert trained.accuracy > 0.5
    whole = 10 * (len(task.splits["train"]) // 32)
    restarts = caplog.text.count("it starts again")
    assert len(steps) <= whole * (1 + 0.4 * restarts)


def test_what_one_class_for_all_would_give_is_no_more_than_chance():
    labels = torch.tensor([0] * 50 + [1] * 50)
    with pytest.raises(learning.Diverged, match=r"validation accuracy of 60\.0%"):
        learning._check_learned(0.60, labels)  # within two standard errors, 5% each
    learning._check_learned(0.61, labels)


def test_teachers_that_are_kept_are_listed(cache, caplog):
    first = small_teacher()
    assert kept_teachers() == []
    accuracy = first.score.accuracy
    (about,) = kept_teachers()
    assert (about["teacher"], about["task"]) == ("squeezenet1_1", "digits")
    assert about["validation_accuracy"] == accuracy
    assert about["num_params"] == first.architecture.num_params
    (cache / "other.json").write_text("{}")
    assert len(kept_teachers()) == 1
    assert "other.json" in caplog.text


def test_a_teacher_can_be_trained_again(cache):
    path_of = lambda: next(cache.glob("*.safetensors"))  # noqa: E731
    small_teacher().score  # noqa: B018
    before = path_of().stat().st_mtime_ns
    small_teacher().score  # noqa: B018
    assert path_of().stat().st_mtime_ns == before
    longer = load_teacher("squeezenet1_1", device="cpu", epochs=2, again=True)
    longer.score  # noqa: B018
    (about,) = kept_teachers()
    assert about["recipe"]["epochs"] == 2


def test_the_papers_teachers_have_the_papers_sizes():
    colour = Task("none", (3, 32, 32), 10, dict)
    expected = {
        "resnet18": 11_173_962,
        "resnet34": 21_282_122,
        "vgg13_bn": 9_416_010,
        "vgg19_bn": 20_040_522,
        "vgg19": 20_029_514,
    }
    for name, count in expected.items():
        assert teacher_architecture(name, colour).num_params == count


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match=r"unknown task 'digit'; known: digits"):
        load_task("digit")


# An architecture in a teacher's place.


@pytest.fixture
def as_given(teacher, tmp_path) -> dict:
    path = tmp_path / "network.json"
    path.write_text(teacher.architecture.to_json())
    return {
        "object": teacher.architecture,
        "json": teacher.architecture.to_json(),
        "str": str(path),
        "path": path,
    }


@pytest.mark.parametrize("form", ["object", "json", "str", "path"])
def test_an_architecture_is_trained_on_a_task_like_any_network(cache, as_given, form):
    found = load_teacher(as_given[form], "digits", epochs=1, device="cpu")
    assert found.architecture == as_given["object"]
    assert 0 < found.score.accuracy <= 1


def test_an_architecture_takes_weights(teacher, as_given):
    weights = dict(teacher.weights)
    found = load_teacher(as_given["str"], "digits", weights=weights, device="cpu")
    assert found.score.accuracy == teacher.score.accuracy


def test_an_architecture_for_colour_sees_grey_images_in_three_channels():
    architecture = trace(SmallResNet(channels=3), (3, 8, 8))
    found = load_teacher(architecture, "digits")
    assert found.task.input_shape == (3, 8, 8)
    assert found.task.grey is not None


def test_an_architecture_alone_says_what_it_lacks(as_given):
    untrained = load_teacher(as_given["json"])
    with pytest.raises(ValueError, match="has no weights and no images"):
        untrained.score  # noqa: B018
    with pytest.raises(ValueError, match="'inherit' needs images and weights; give"):
        RemoveEnv(as_given["json"])
    with pytest.raises(ValueError, match="give load_teacher the architecture and task"):
        load_teacher(untrained, "digits")
    with pytest.raises(ValueError, match="unknown device 'nope'"):
        load_teacher(as_given["json"], device="nope")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{}", "teacher='{}' cannot be read"),
        ("nowhere.json", "teacher='nowhere.json' cannot be read"),
        (Path("nowhere"), "teacher='nowhere' cannot be read"),
        ("nowhere", "'module:function', and an architecture's JSON or .json file"),
    ],
)
def test_what_is_no_architecture_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        load_teacher(given)


def test_a_network_that_is_no_classifier_is_refused(teacher, task):
    whole = teacher.architecture
    maps = Architecture(whole.input_shape, whole.layers[:1])
    for more in ({}, {"task": task}):
        with pytest.raises(
            ValueError, match=r"has outputs of shape \(8, 8, 8\); a classifier's"
        ):
            load_teacher(maps, **more)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_teacher_is_trained_in_the_precision_that_is_asked_for(
    precision, cache, monkeypatch
):
    other = {"float32": "bfloat16", "bfloat16": "float32"}[precision]
    monkeypatch.setattr(learning, "pick_precision", lambda *_: other)
    monkeypatch.setattr(learning, "WORTH_MEASURING", 0)

    def made(asked: str | None = None) -> str:
        return load_teacher("squeezenet1_1", device="cpu", precision=asked).fingerprint

    chosen, fixed = made(), made(precision)
    assert fixed != chosen
    assert made(other) == chosen
    monkeypatch.setattr(learning, "train_network", None)  # all three are kept
    assert [made(), made(precision), made(other)] == [chosen, fixed, chosen]


@pytest.mark.parametrize("precision", ["int8", "float16", "", "fp32"])
def test_a_precision_that_there_is_none_of_is_refused(precision):
    with pytest.raises(ValueError, match=f"unknown precision='{precision}'; known: N"):
        load_teacher("resnet18", "digits", precision=precision)
