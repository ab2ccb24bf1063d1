"""Shared fixtures: a separate cache, and a teacher that trains in seconds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("TQDM_DISABLE", "1")
# Each core has a process of tests; before numpy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Teachers that tests train must not be mistaken for the user's.
_CACHE = tempfile.TemporaryDirectory(prefix="n2n-gym-tests-")
os.environ["N2N_CACHE"] = _CACHE.name

import torch  # noqa: E402

from n2n_gym.compression import assessment, pacing, preparation  # noqa: E402
from n2n_gym.compression.pipeline import compress  # noqa: E402
from n2n_gym.evaluators.runner import InProcess  # noqa: E402
from n2n_gym.pytorch.recipe import Recipe  # noqa: E402
from n2n_gym.pytorch.trace import trace  # noqa: E402
from n2n_gym.runs.folder import Options  # noqa: E402
from n2n_gym.tasks.sets import digits  # noqa: E402
from n2n_gym.tasks.task import Task  # noqa: E402
from n2n_gym.teachers.learning import train_network  # noqa: E402
from n2n_gym.teachers.teacher import Teacher  # noqa: E402
from tests.networks import SmallResNet  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


REAL = {"SECONDS": assessment.SECONDS, "default_runner": preparation.default_runner}


@pytest.fixture(scope="session", autouse=True)
def _quick_runs() -> Iterator[None]:
    """Runs measure students in this process, which gives the same scores without the
    seconds that others take to start, and time files for a moment.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assessment, "SECONDS", 0.05)
        patch.setattr(preparation, "default_runner", lambda most: InProcess())
        yield


@pytest.fixture(autouse=True)
def _slow_tests_are_real(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is slow anyway has its worker processes and its two seconds a file."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("slow") is not None:
            patch.setattr(assessment, "SECONDS", REAL["SECONDS"])
            patch.setattr(preparation, "default_runner", REAL["default_runner"])
        yield


@pytest.fixture(scope="session")
def task() -> Task:
    return digits()


@pytest.fixture(scope="session")
def teacher(task: Task) -> Teacher:
    """A small residual network, trained on digits when its weights are first needed."""
    architecture = trace(SmallResNet(), task.input_shape)
    recipe = Recipe(epochs=6, batch_size=32, learning_rate=0.1)

    def provide():
        return train_network("small", task, architecture, recipe, torch.device("cpu"))

    return Teacher("small", task, architecture, provide)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run of the whole path, under a name that needs quoting."""
    folder = tmp_path_factory.mktemp("runs") / "<small> & 'fine'"
    options = Options(
        teacher="tests.networks:make_small",
        evaluator="inherit",
        removal_updates=2,
        shrinkage_updates=2,
        final_epochs=2,
        controls="all",
        device="cpu",
        output=folder,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pacing, "ROUNDS", ((4, 0.5), (2, 1.0)))
        compress(options)
    return folder
