"""Kills, shared stores, disks that cannot be written: what a run survives."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch

from benchmarks import kills
from n2n_gym.common.files import kept_if_possible, locked, write_whole
from n2n_gym.evaluators import elastic
from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.rungs import ELASTIC
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.precision import pick_precision
from tests.networks import make_small

CPU = torch.device("cpu")


def failed(findings: list[kills.Finding]) -> list[str]:
    return [str(finding) for finding in findings if not finding.holds]


@pytest.mark.slow
def test_a_search_that_is_killed_ends_as_one_left_alone(tmp_path):
    assert not failed(kills.check_kills(tmp_path, 2, episodes=16, workers=1))


@pytest.mark.slow
def test_processes_on_one_store_have_the_same_scores(tmp_path):
    assert not failed(kills.check_sharing(tmp_path, 2))


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path):
    (trouble,) = (t for t in kills.troubles(tmp_path) if t.what == "a full disk")
    assert not failed(kills.check_trouble(trouble, tmp_path))


@pytest.fixture
def no_cache(tmp_path, monkeypatch) -> Path:
    """A folder that cannot be made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "file" / "cache"))
    return tmp_path / "file" / "cache"


def test_a_precision_that_cannot_be_kept_is_measured_and_used(no_cache, caplog):
    # Of steps that do nothing either may be the faster one.
    step = {"float32": lambda: time.sleep(0.02), "bfloat16": lambda: None}
    assert pick_precision("a network", CPU, lambda each: step[each]()) == "bfloat16"
    (warning,) = caplog.messages
    assert f"{no_cache / 'precision.json'} cannot be kept: " in warning
    assert "Not a directory" in warning


def test_a_teacher_that_cannot_be_kept_is_trained_and_used(no_cache, caplog):
    caplog.set_level(logging.WARNING)
    teacher = load_teacher(make_small, "digits", device="cpu")
    assert teacher.score.accuracy > 0.5
    (warning,) = caplog.messages
    assert f"{no_cache / 'teachers' / 'make_small-digits-'}" in warning
    assert "Not a directory" in warning


@pytest.mark.slow
def test_an_elastic_teacher_that_cannot_be_kept_is_made_and_used(
    teacher, no_cache, caplog, monkeypatch
):
    monkeypatch.setattr(elastic, "STEPS", 300)
    _ = teacher.weights
    caplog.clear()
    settings = Settings(ELASTIC, CPU, "float32", 1)
    made = elastic.elastic_teacher(teacher, settings)
    assert made.weights.keys() == teacher.weights.keys()
    (warning,) = caplog.messages
    assert f"{no_cache / 'elastic'}" in warning


def test_what_cannot_be_kept_is_said_of_a_folder_once(no_cache, caplog):
    for name in ("one", "two"):
        with kept_if_possible(no_cache / name):
            write_whole(no_cache / name, b"")
    (warning,) = caplog.messages
    assert str(no_cache / "one") in warning


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    path = tmp_path / "small[1].safetensors"
    left = tmp_path / f"{path.name}.123.part"
    other = tmp_path / "small1.safetensors.123.part"
    left.touch()
    other.touch()
    with locked(path):
        assert not left.exists()
        assert other.exists()
