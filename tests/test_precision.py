"""The precision that teachers are trained in."""

from __future__ import annotations

import pytest
import torch

from n2n_gym.teachers import precision
from n2n_gym.teachers.precision import pick_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    return tmp_path


def test_it_is_measured_once_and_remembered():
    steps: list[str] = []
    first = pick_precision("a network", CPU, steps.append)
    assert set(steps) == {"float32", "bfloat16"}
    count = len(steps)
    assert pick_precision("a network", CPU, steps.append) == first
    assert len(steps) == count
    pick_precision("another network", CPU, steps.append)
    assert len(steps) == 2 * count


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1.0, "float32"), (0.9, "float32"), (0.5, "bfloat16"), (2.0, "float32")],
)
def test_bfloat16_must_be_clearly_faster(seconds, expected, monkeypatch):
    measured = {"float32": 1.0, "bfloat16": seconds}
    monkeypatch.setattr(precision, "_measure", lambda step: measured)
    assert pick_precision("a network", CPU, lambda _: None) == expected


def test_a_damaged_memory_is_named_and_made_anew(cache, caplog):
    (cache / "precision.json").write_text("{")
    pick_precision("a network", CPU, lambda _: None)
    assert "precision.json is damaged" in caplog.text
    caplog.clear()
    pick_precision("a network", CPU, lambda _: None)
    assert not caplog.text
