"""A run's folder answers for the teacher and the images that it began with alone."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.compression.pipeline import compress
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.trace import trace
from n2n_gym.runs.identity import IDENTITY, keep_identity
from n2n_gym.runs.options import Options
from n2n_gym.tasks.sets import digits
from n2n_gym.teachers import learning
from n2n_gym.teachers.loading import load_teacher
from tests.networks import PlainNet, SmallResNet
from tests.test_own_teachers import publish

HASH = "[0-9a-f]{16}"
TEACHER = "tests.networks:make_small"
OTHERS = f"{HASH} before, {HASH} now"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A cache and a current folder of its own; teachers that train for a moment."""
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    recipe = Recipe(epochs=1, batch_size=32, learning_rate=0.05, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


class Member(NamedTuple):
    """An input of a run that can change under its name."""

    options: dict
    change: Callable[[], None]
    said: str  # a pattern
    is_of_task: bool = False


def state(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return SmallResNet().state_dict()


def safetensors() -> Member:
    def write(seed: int) -> None:
        save_file(state(seed), "net.safetensors")

    write(0)
    options = {"weights": "net.safetensors"}
    said = rf"the weights in net\.safetensors: {OTHERS}"
    return Member(options, lambda: write(1), said)


def state_dict() -> Member:
    def write(seed: int) -> None:
        torch.save({"state_dict": state(seed)}, "net.pt")

    write(0)
    said = rf"the weights in net\.pt: {OTHERS}"
    return Member({"weights": "net.pt"}, lambda: write(1), said)


def published() -> Member:
    def write(seed: int) -> None:
        torch.manual_seed(seed)
        shutil.rmtree("torch", ignore_errors=True)
        publish("squeezenet1_1", "IMAGENET1K_V1", Path.cwd())

    task = Path("many.npz")
    rng = np.random.default_rng(0)
    names = {}
    for split in ("train", "validation", "test"):
        names[f"{split}_images"] = rng.integers(0, 256, (1000, 32, 32, 3), np.uint8)
        names[f"{split}_labels"] = np.arange(1000)
    np.savez(task, **names)
    write(0)
    options = {"teacher": "squeezenet1_1", "weights": "IMAGENET1K_V1"}
    said = f"the weights in IMAGENET1K_V1: {OTHERS}"
    return Member({**options, "task": str(task)}, lambda: write(1), said)


def code(text: str) -> None:
    """A module of the user's, as the next process would import it."""
    Path("own_code.py").write_text(text)
    sys.modules.pop("own_code", None)


def network() -> Member:
    plain = "from tests.networks import {0}\ndef make(task):\n    return {0}()\n"
    code(plain.format("SmallResNet"))
    options = {"teacher": "own_code:make", "weights": "own"}
    one, two = (trace(net(), (1, 8, 8)) for net in (SmallResNet, PlainNet))
    said = (
        f"the network own_code:make: {one.num_params:,} parameters, fingerprint "
        f"{one.fingerprint[:16]} before, {two.num_params:,} parameters, fingerprint "
        f"{two.fingerprint[:16]} now"
    )
    return Member(options, lambda: code(plain.format("PlainNet")), said)


def start() -> Member:
    body = "from tests.networks import SmallResNet\ndef make(task):\n    {}return net\n"
    code(body.format("net = SmallResNet(); "))
    changed = "net = SmallResNet(); net.fc.bias.data.fill_(1); "
    said = f"the weights that own_code:make is trained from: {OTHERS}"
    return Member(
        {"teacher": "own_code:make"}, lambda: code(body.format(changed)), said
    )


def whole() -> Member:
    body = (
        "import torch\n"
        "from n2n_gym.pytorch.trace import trace\n"
        "from n2n_gym.teachers.teacher import Teacher, Trained\n"
        "from tests.networks import SmallResNet\n"
        "def make(task):\n"
        "    net = SmallResNet()\n"
        "    logits = torch.full((len(task.splits['train']), 10), {}.0)\n"
        "    trained = Trained(net.state_dict(), 0.5, logits)\n"
        "    return Teacher('whole', task, trace(net, (1, 8, 8)), lambda: trained)\n"
    )
    code(body.format(0))
    said = f"the weights of own_code:make: {OTHERS}"
    return Member({"teacher": "own_code:make"}, lambda: code(body.format(1)), said)


def architecture() -> Member:
    def write(module) -> None:
        Path("net.json").write_text(trace(module, (1, 8, 8)).to_json())

    write(SmallResNet())
    said = r"the network net\.json: .* parameters, fingerprint .* before, .* now"
    return Member({"teacher": "net.json"}, lambda: write(PlainNet()), said)


def trained_again() -> Member:
    def train() -> None:
        load_teacher(TEACHER, "digits", device="cpu", epochs=2, again=True).score  # noqa: B018

    return Member({}, train, f"the weights from training: {OTHERS}")


def images_in(folder: str, count: int = 6) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            place = Path(folder, split, name)
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def of_folder(change: Callable[[], object], said: str) -> Member:
    images_in("pets")
    return Member({"task": "pets@8", "weights": "own"}, change, said, is_of_task=True)


def file_added() -> Member:
    def change() -> None:
        shutil.copy("pets/train/cat/0.png", "pets/train/cat/new.png")

    return of_folder(change, "images of class cat in train: 6 before, 7 now")


def label_changed() -> Member:
    def change() -> None:
        shutil.move("pets/test/cat/0.png", "pets/test/dog/new.png")

    said = (
        "images of class cat in test: 6 before, 5 now; images of class dog in test: "
        "6 before, 7 now"
    )
    return of_folder(change, said)


def image_changed() -> Member:
    def change() -> None:
        Image.new("RGB", (8, 8), "red").save("pets/val/dog/3.png")

    return of_folder(change, f"inputs: the images in validation: {OTHERS};")


def of_npz(change: Callable[[dict], None], said: str) -> Member:
    found = {}
    for split, (images, labels) in digits().read().items():
        found |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez("own.npz", **found)

    def write() -> None:
        change(found)
        np.savez("own.npz", **found)

    return Member({"task": "own.npz", "weights": "own"}, write, said, is_of_task=True)


def pixel_of_npz() -> Member:
    def change(found: dict) -> None:
        found["test_images"][0, 0, 0] ^= 1

    return of_npz(change, f"the images in test: {OTHERS}")


def labels_of_npz() -> Member:
    def change(found: dict) -> None:
        labels = found["train_labels"]
        one = int(np.flatnonzero(labels != labels[0])[0])
        labels[[0, one]] = labels[[one, 0]]

    return of_npz(change, f"the labels in train: {OTHERS}")


TASK = (
    "from dataclasses import replace\n"
    "from n2n_gym.tasks.augmentation import Augmentation\n"
    "from n2n_gym.tasks.sets import digits\n"
    "def read():\n"
    "    found = dict(digits().read())\n"
    "    images, labels = found['train']\n"
    "    return {{**found, 'train': (images // {}, labels)}}\n"
    "def make():\n"
    "    names = tuple('{}')\n"
    "    changed = Augmentation({})\n"
    "    return replace(digits(), read=read, class_names=names, augmentation=changed)\n"
)


def of_function(said: str, *changed: object) -> Member:
    code(TASK.format(1, "abcdefghij", 0))

    def change() -> None:
        code(TASK.format(*changed))

    return Member({"task": "own_code:make"}, change, said, is_of_task=True)


def images_of_function() -> Member:
    return of_function(f"the images in train: {OTHERS}", 2, "abcdefghij", 0)


def classes_of_function() -> Member:
    said = "the classes of own_code:make: a, b, c, d, e, f, g, h, i, j before, b, a, c"
    return of_function(said, 1, "bacdefghij", 0)


def augmentation_of_function() -> Member:
    said = r"the augmentation of own_code:make: Augmentation\(padding=0, .*=1, "
    return of_function(said, 1, "abcdefghij", 1)


def policy() -> Member:
    def write(content: bytes) -> None:
        Path("first", "reinforce-remove.policy.pt").write_bytes(content)

    Path("first").mkdir()
    write(b"one")
    said = rf"the file first/reinforce-remove\.policy\.pt: {OTHERS}"
    return Member({"init_policy": Path("first")}, lambda: write(b"two"), said)


def calibration() -> Member:
    path = Path("cheap.json")
    path.write_text("{}")
    said = rf"the file cheap\.json: {OTHERS}"
    options = {"evaluator": "cheap.json"}
    return Member(options, lambda: path.write_text("{ }"), said)


MEMBERS = [
    *(safetensors, state_dict, published, network, start, whole, architecture),
    *(trained_again, file_added, label_changed, image_changed, pixel_of_npz),
    *(labels_of_npz, images_of_function, classes_of_function),
    *(augmentation_of_function, policy, calibration),
]


def begun(finished_run: Path, member: Member) -> Options:
    """A folder as a finished run with these options leaves it."""
    written = Options.read(finished_run / "options.toml")
    options = replace(written, output=Path("run"), **member.options)
    options.output.mkdir()
    (options.output / "options.toml").write_text(options.to_toml())
    keep_identity(options, options.load_teacher())
    for path in finished_run.iterdir():
        if path.is_file() and path.name not in ("options.toml", IDENTITY, ".lock"):
            shutil.copy(path, options.output)
    return options


@pytest.mark.parametrize("make", MEMBERS, ids=lambda make: make.__name__)
def test_a_finished_run_answers_for_what_it_began_with_alone(
    make, finished_run, caplog
):
    member = make()
    folder = begun(finished_run, member).output
    caplog.clear()
    same = ("compress", "--config", folder / "options.toml")
    for arguments in (same, ("compress", "--resume", folder)):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        assert "Nothing was done: run holds this run" in result.stdout
    assert not caplog.records

    member.change()
    before = files_in(folder)
    for arguments in (same, ("compress", "--resume", folder), ("export", folder)):
        result = invoke(*arguments)
        assert result.exit_code == 1, result.output
        assert "run began with other inputs: " in result.stderr
        assert re.search(member.said, result.stderr)
        assert "student" not in result.stdout
    assert files_in(folder) == before


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


OF_TASK = [
    *(file_added, label_changed, image_changed, pixel_of_npz, labels_of_npz),
    *(images_of_function, classes_of_function),
]
OF_TEACHER = [safetensors, state_dict, network, start, whole, architecture, policy]


@pytest.mark.parametrize("make", OF_TASK, ids=lambda make: make.__name__)
def test_a_student_is_not_evaluated_on_other_images_unasked(make, finished_run):
    member = make()
    options = begun(finished_run, member)
    member.change()
    for path in (options.output, options.output / "student.onnx"):
        result = invoke("evaluate", path)
        assert result.exit_code == 1
        assert re.search(member.said, result.stderr)
        assert "name the images with --task" in result.stderr
    if options.task != "pets@8":  # of other images than the student takes
        result = invoke("evaluate", options.output, "--task", options.task)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("make", OF_TEACHER, ids=lambda make: make.__name__)
def test_a_student_is_evaluated_whatever_became_of_its_teacher_and_that_is_said(
    make, finished_run, caplog
):
    member = make()
    folder = begun(finished_run, member).output
    member.change()
    wanted = json.loads((folder / "summary.json").read_text())["student"]
    result = invoke("evaluate", folder, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["accuracy"]
    assert found == pytest.approx(wanted["test_accuracy"])
    assert re.search(member.said, caplog.text)


@pytest.mark.parametrize(
    "make", [state_dict, network, file_added, augmentation_of_function]
)
def test_a_report_is_of_what_was_found_and_says_what_has_changed(
    make, finished_run, caplog
):
    member = make()
    folder = begun(finished_run, member).output
    caplog.clear()
    assert invoke("report", folder).exit_code == 0
    assert not caplog.records
    member.change()
    assert invoke("report", folder).exit_code == 0
    assert re.search(member.said, caplog.text)


GONE = {
    "weights": (safetensors, lambda: Path("net.safetensors").unlink()),
    "code": (network, lambda: Path("own_code.py").unlink()),
    "architecture": (architecture, lambda: Path("net.json").unlink()),
    "images": (pixel_of_npz, lambda: Path("own.npz").unlink()),
    "folder": (image_changed, lambda: shutil.rmtree("pets")),
}


@pytest.mark.parametrize(("make", "remove"), GONE.values(), ids=GONE)
def test_a_report_needs_neither_teacher_nor_images(make, remove, finished_run, caplog):
    folder = begun(finished_run, make()).output
    remove()
    sys.modules.pop("own_code", None)
    caplog.clear()
    result = invoke("report", folder)
    assert result.exit_code == 0, result.output
    said = "whether the teacher and the images of run have changed is not known: "
    assert said in caplog.text
    # The same command would answer for what is not there.
    result = invoke("compress", "--resume", folder)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr


def test_a_finished_run_has_one_document_and_the_note_beside_it(finished_run):
    result = invoke("compress", "--resume", finished_run, "--json")
    assert result.exit_code == 0, result.output
    json.loads(result.stdout)
    assert "Nothing was done" in result.stderr


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("student.onnx", ["compress --resume", "export", "evaluate"]),
        ("student.safetensors", ["export"]),
        ("architecture.json", ["export", "report"]),
        ("run.json", ["compress --resume", "export", "evaluate", "report"]),
    ],
)
def test_a_file_that_is_missing_is_named_in_one_line(name, commands, finished_run):
    folder = begun(finished_run, safetensors()).output
    (folder / name).unlink()
    for command in commands:
        result = invoke(*command.split(), folder)
        assert result.exit_code == 1
        assert name in result.stderr
        assert isinstance(result.exception, SystemExit)


def test_a_run_of_an_earlier_version_is_read_with_a_warning(finished_run, caplog):
    folder = begun(finished_run, safetensors()).output
    (folder / IDENTITY).unlink()
    for arguments in (("compress", "--resume"), ("report",), ("evaluate",)):
        assert invoke(*arguments, folder).exit_code == 0
    (line,) = [r.getMessage() for r in caplog.records if IDENTITY in r.getMessage()]
    assert line.startswith("run has no identity.json: an earlier version began this")


def test_a_stopped_run_of_an_earlier_version_goes_on_and_is_not_vouched_for(
    finished_run, caplog
):
    options = begun(finished_run, safetensors())
    for name in (IDENTITY, "summary.json"):
        (options.output / name).unlink()
    options = replace(options, output=options.output.rename("stopped"))
    keep_identity(options, options.load_teacher())
    assert "stopped has no identity.json" in caplog.text
    assert not (options.output / IDENTITY).exists()


def test_no_other_student_is_distilled_from_a_teacher_that_was_trained_otherwise(
    finished_run, monkeypatch
):
    member = trained_again()
    folder = begun(finished_run, member).output
    shutil.rmtree("cache")
    # The inputs are what they were, so the run's own student can be exported; the
    # teacher is trained to other weights as that needs it.
    recipe = Recipe(epochs=2, batch_size=32, learning_rate=0.05, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    line = (folder / "history.jsonl").read_text().splitlines()[0]
    result = invoke("export", folder, "--student", json.loads(line)["fingerprint"])
    assert result.exit_code == 1
    assert re.search(member.said, result.stderr)
    assert not list(folder.glob("exports/*/*"))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"facts": 3, "splits": {}}'])
def test_a_damaged_record_is_named(content, finished_run):
    folder = begun(finished_run, safetensors()).output
    (folder / IDENTITY).write_text(content)
    for arguments in (("compress", "--resume"), ("export",), ("evaluate",)):
        result = invoke(*arguments, folder)
        assert result.exit_code == 1
        assert "run/identity.json is damaged" in result.stderr


@pytest.mark.parametrize(
    "make", [safetensors, network, pixel_of_npz, trained_again, images_of_function]
)
def test_a_run_that_was_stopped_goes_on_with_what_it_began_with_alone(
    make, finished_run, monkeypatch
):
    member = make()
    options = begun(finished_run, member)
    (options.output / "summary.json").unlink()
    member.change()
    before = files_in(options.output)
    with pytest.raises(ValueError, match=member.said):
        compress(replace(options, train_teacher=True))  # which changes nothing
    after = files_in(options.output)
    assert {path: after[path] for path in before} == before


def test_the_colours_that_images_are_given_are_no_change(finished_run):
    def colour(seed: int) -> None:
        torch.manual_seed(seed)
        torch.save(SmallResNet(channels=3).state_dict(), "colour.pt")

    colour(0)
    code(
        "from tests.networks import SmallResNet\n"
        "def make(task):\n"
        "    return SmallResNet(3)\n"
    )
    options = {"teacher": "own_code:make", "weights": "colour.pt"}
    member = Member(options, lambda: colour(1), rf"in colour\.pt: {OTHERS}")
    folder = begun(finished_run, member).output
    assert invoke("compress", "--resume", folder).exit_code == 0
    member.change()
    result = invoke("compress", "--resume", folder)
    assert re.search(member.said, result.stderr)
    assert "images" not in result.stderr
