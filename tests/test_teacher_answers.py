"""A teacher's logits of its task's images: precision, progress, storage."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from n2n_gym import load_teacher
from n2n_gym.common import progress as bars
from n2n_gym.pytorch.inference import compute_logits
from n2n_gym.tasks.loading import load_task
from n2n_gym.teachers import answers, providing
from tests.networks import make_small

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def task():
    return load_task("digits")


@pytest.fixture(scope="module")
def weights(task):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_small(task).state_dict()


def given(task, weights, precision=None):
    return load_teacher(
        make_small, task, weights=weights, device="cpu", precision=precision
    )


def test_logits_are_those_of_the_network(task, weights):
    teacher = given(task, weights)
    split = task.split("train", CPU)
    found = compute_logits(teacher.network(CPU), split, teacher.normalise)
    assert torch.allclose(teacher.trained.logits, found, atol=1e-5)


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16"])
def test_logits_of_given_weights_are_computed_once(
    task, weights, precision, monkeypatch
):
    first = given(task, weights, precision)
    assert len(first.trained.logits) == len(task.splits["train"])
    monkeypatch.setattr(providing, "compute_answers", None)  # it would fail
    second = given(task, weights, precision)
    assert second.fingerprint == first.fingerprint
    assert second.score == first.score


def test_another_precision_has_other_logits_and_other_scores(task, weights):
    fast, exact = (given(task, weights, p) for p in ("bfloat16", "float32"))
    assert not torch.equal(fast.trained.logits, exact.trained.logits)
    assert fast.fingerprint != exact.fingerprint  # part of the key of each score
    assert given(task, weights).fingerprint == exact.fingerprint  # few images


def test_what_is_kept_is_of_these_weights_images_and_normalisation(task, weights):
    others = {name: tensor.clone() for name, tensor in weights.items()}
    next(iter(others.values())).mul_(2)
    fewer = {
        name: (images[1:], labels[1:])
        for name, (images, labels) in (
            (name, split.arrays()) for name, split in task.splits.items()
        )
    }
    teachers = [
        given(task, weights),
        given(task, others),
        given(replace(task, read=lambda: fewer), weights),
        load_teacher(
            make_small,
            task,
            weights=weights,
            normalisation=((0.5,), (0.5,)),
            device="cpu",
        ),
    ]
    assert len({teacher.provide._path for teacher in teachers}) == len(teachers)


def test_the_precision_of_many_images_is_the_faster_one(task, weights, monkeypatch):
    monkeypatch.setattr(answers, "WORTH_MEASURING", 1)
    seen = []

    def pick(of, device, step):
        for precision in ("float32", "bfloat16"):
            step(precision)
        seen.append(of)
        return "bfloat16"

    monkeypatch.setattr(answers, "pick_precision", pick)
    fast = given(task, weights)
    asked = given(task, weights, "bfloat16")
    assert torch.equal(fast.trained.logits, asked.trained.logits)
    assert len(seen) == 1


@pytest.mark.parametrize("is_long", [True, False])
def test_a_long_pass_is_shown_at_once(task, weights, is_long, monkeypatch):
    monkeypatch.setattr(answers, "LONG", 0 if is_long else 1e15)
    written = io.StringIO()

    def bar(total, title, unit="image", *, is_long=False):
        return tqdm(
            total=total,
            desc=title,
            file=written,
            disable=False,
            delay=0.0 if is_long else bars.AFTER,
        )

    monkeypatch.setattr(answers, "progress", bar)
    _ = given(task, weights).score
    assert ("Logits of make_small on digits" in written.getvalue()) == is_long


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_an_npz_tells_how_much_of_it_is_read(tmp_path, compress, monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8)
    labels = np.arange(60) % 3
    arrays = {
        f"{s}_{k}": v
        for s in ("train", "test")
        for k, v in (
            ("images", images[:: 1 if s == "train" else -1]),
            ("labels", labels),
        )
    }
    compress(tmp_path / "own.npz", **arrays)
    told = []
    from n2n_gym.tasks import npz

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        update = staticmethod(told.append)

    monkeypatch.setattr(npz, "progress", lambda *_: Bar())
    task = load_task(str(tmp_path / "own.npz"))
    assert task.num_classes == 3
    assert sum(told) > 1000
