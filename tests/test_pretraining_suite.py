"""Suites of policies that are trained before: what is read, and what is refused."""

import pytest
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.pretraining.suite import (
    MOST_MACS,
    check_suite,
    images_of,
    read_suite,
    read_target,
    share_images,
)

SMALL = "tests.networks:make_small"
TEXT = f"""
stages = ["compress", "remove"]
students = 12
corrections = 2
fresh = 2
groups = 2
rollouts = 2

[updates]
compress = 3
remove = 4

[seeds]
compress = [0, 1]
remove = [0]

[targets]
resources = ["num_params"]
training = ["1/20", 0.5]
test = ["1/3", "1/40"]

[[training]]
teacher = "{SMALL}"
task = "digits:0-4"
family = "small"

[[test]]
teacher = "mobilenet_v3_small"
task = "digits:5-9"
family = "mobilenet"
"""


@pytest.fixture
def read(tmp_path):
    def of(text=TEXT, *, replaced=None):
        for before, after in (replaced or {}).items():
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "suite.toml"
        path.write_text(text)
        return read_suite(path)

    return of


def test_a_suite_says_what_its_file_says(read):
    suite = read()
    assert suite.stages == ("compress", "remove")
    assert suite.seeds == {"compress": (0, 1), "remove": (0,)}
    assert suite.updates == {"compress": 3, "remove": 4}
    assert suite.targets == (0.05, 0.5)
    assert suite.test_targets == (1 / 3, 1 / 40)
    assert suite.training[0].key == "tests.networks-make_small-digits-0-4"


def test_the_standard_suite_holds_out_families_and_images():
    suite = read_suite("standard")
    families = {each.family for each in suite.training}
    assert len(suite.training) >= 15
    assert len(families) >= 8
    assert not families & {each.family for each in suite.test}
    for held in suite.test:
        assert not any(share_images(held.task, each.task) for each in suite.training)
    assert suite.test_targets == (1 / 3, 1 / 7, 1 / 15, 1 / 40)
    assert suite.targets == (1 / 20, 1 / 2)


def test_tasks_that_share_images_are_known():
    assert images_of("cifar10:0-4:5000") == ("cifar10", frozenset(range(5)))
    assert share_images("cifar10", "cifar10x16:0-4")
    assert share_images("cifar10:0-4", "cifar10x16:4,5")
    assert not share_images("cifar10:0-4", "cifar10x16:5-9")
    assert not share_images("digits", "mnist")
    assert share_images("emnist", "mnist")
    assert share_images("some.npz", "some.npz")


@pytest.mark.parametrize(("value", "share"), [("1/4", 0.25), (0.5, 0.5), (1, 1.0)])
def test_targets_are_shares(value, share):
    assert read_target(value) == share


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({'"1/3"': '"3/1"'}, r"fraction in \(0, 1\].*got '3/1'"),
        ({'"1/3"': "0"}, r"fraction in \(0, 1\].*got 0"),
        ({'"1/3"': '"1/0"'}, "got '1/0'"),
        ({'"1/3"': '"a third"'}, "got 'a third'"),
        ({'["1/20", 0.5]': '["1/2", 0.05]'}, "with least <= most, got"),
        ({'["1/20", 0.5]': "[0.5]"}, r"\[least, most\]"),
        ({"digits:5-9": "digits:4-9"}, "images with the training task digits:0-4"),
        ({'"mobilenet"': '"small"'}, "family 'small', as the training teacher"),
        ({"mobilenet_v3_small": SMALL, "digits:5-9": "digits:0-4"}, "is listed twice"),
        ({"rollouts = 2": "rollouts = 1"}, "at least 2, .* got 1"),
        ({"students = 12": "students = 0"}, "students must be an integer >= 1, got 0"),
        ({"students = 12": "student = 12"}, "did you mean 'students'"),
        ({"fresh = 2\n": ""}, "fresh is missing"),
        ({"compress = 3\n": ""}, r"updates\.compress is missing"),
        ({"remove = 4": "shrink = 4"}, r"unknown key updates\.shrink"),
        ({'"remove"]': '"grow"]'}, "stages must be one or more of compress, remove"),
        ({'["num_params"]': '["latency_ms"]'}, "num_params, num_macs, .*got"),
        ({'family = "small"': 'famly = "small"'}, "unknown key training.famly"),
        ({'task = "digits:0-4"': "task = 4"}, "training.task must be a string, got 4"),
        ({"[0, 1]": "[-1]"}, r"seeds\.compress must be an integer >= 0, got -1"),
        ({"remove = [0]\n": ""}, r"seeds\.remove is missing"),
        ({"[targets]": "[targets"}, "is not TOML"),
    ],
)
def test_what_makes_no_sense_is_refused(read, replaced, message):
    with pytest.raises(ValueError, match=message):
        read(replaced=replaced)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"there is no suite nowhere\.toml"):
        read_suite("nowhere.toml")


def test_teachers_are_there_and_have_decisions(read):
    whole, held = check_suite(read())
    assert whole.architecture.num_outputs == held.architecture.num_outputs == 5


def test_an_unknown_teacher_is_named(read):
    suite = read(replaced={f'"{SMALL}"': '"resnet81"'})
    with pytest.raises(ValueError, match=r"resnet81 on digits:0-4: unknown teacher"):
        check_suite(suite)


def test_a_large_training_teacher_is_refused_and_a_large_test_teacher_is_not(read):
    suite = read(replaced={"mobilenet_v3_small": "vgg19_bn", '"mobilenet"': '"vgg"'})
    assert check_suite(suite)[1].architecture.num_macs > 0
    large = read(replaced={f'"{SMALL}"': '"resnet34"', '"small"': '"resnet"'})
    with pytest.raises(
        ValueError, match=rf"at most {MOST_MACS / 1e6:.0f} M .* has \d+ M"
    ):
        check_suite(large)


def test_images_that_are_not_here_are_not_downloaded(read, monkeypatch, tmp_path):
    monkeypatch.setenv("N2N_DATA", str(tmp_path / "empty"))
    suite = read(replaced={"digits:0-4": "mnist"})
    with pytest.raises(
        ValueError, match=r"images of mnist are not in .*empty: set N2N"
    ):
        check_suite(suite)


def test_the_command_says_what_is_missing(tmp_path):
    for arguments, message in (
        (["train"], "Give remove, shrink, or --suite"),
        (["train", "remove", "--suite", "standard"], "leave out remove"),
        (["train", "--suite", str(tmp_path / "none.toml")], "there is no suite"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())
