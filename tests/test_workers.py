import copy
import os
import pickle
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from n2n_gym.envs import RemoveEnv
from n2n_gym.evaluators import workers as module
from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.evaluators.packed_teacher import pack, unpack
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.runner import InProcess, Trial
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.decisions import RATES, removals, remove, shrink, shrinkages
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.trace import trace
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import ScoreStore
from n2n_gym.tasks.arrays import Arrays
from n2n_gym.tasks.split import Split
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher, Trained

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
QUICK = Rung("quick", recipe=Recipe(1, 32, learning_rate=0.1, logit_weight=0.1))
SLOW = Rung("slow", recipe=Recipe(100, 32, learning_rate=0.01, logit_weight=0.1))


def settings(rung: Rung = QUICK) -> Settings:
    return Settings(rung, CPU, "float32", 1)


def evaluator(rung: Rung = QUICK, runner=None) -> DistillationEvaluator:
    return DistillationEvaluator(rung, device="cpu", precision="float32", runner=runner)


@pytest.fixture(scope="module")
def students(teacher):
    start = teacher.architecture
    branch = next(r for r in removals(start) if r.form == "branch")
    shrunk = [shrink(start, dict.fromkeys(shrinkages(start), r)) for r in RATES[3:]]
    return [start, remove(start, [branch]), *shrunk]


@pytest.fixture
def workers():
    pool = Workers(2)
    yield pool
    pool.close()


def processes(pool: Workers) -> list[psutil.Process]:
    return [psutil.Process(worker._process.pid) for worker in pool._workers]


def test_a_packed_teacher_scores_students_alike_and_has_no_test_split(
    teacher, students
):
    twin = unpack(pack(teacher))
    trial = Trial(students[1], 1)
    (expected,) = InProcess().run([trial], teacher, settings())
    (found,) = InProcess().run([trial], twin, settings())
    assert found.result == expected.result
    assert set(twin.task.splits) == {"train", "validation"}


@pytest.mark.slow
def test_scores_do_not_depend_on_the_number_of_workers(teacher, students):
    found = {}
    for count in (0, 1, 3):
        pool = Workers(count) if count else InProcess()
        evaluator = DistillationEvaluator(
            QUICK, device="cpu", precision="float32", runner=pool
        )
        found[count] = evaluator(students, teacher)
        if count:
            pool.close()
    assert found[0] == found[1] == found[3]
    assert all(isinstance(score, Score) for score in found[0])


def test_workers_stay(teacher, students, workers):
    list(workers.run([Trial(students[0], 0)] * 2, teacher, settings()))
    before = [process.pid for process in processes(workers)]
    list(workers.run([Trial(students[1], 0)] * 2, teacher, settings()))
    assert [process.pid for process in processes(workers)] == before
    workers.close()
    assert not any(map(psutil.pid_exists, before))


def kill_soon(pool: Workers, how: signal.Signals) -> threading.Thread:
    """Sends a signal to a worker as soon as it is measuring something."""

    def kill() -> None:
        while not any(worker.number is not None for worker in pool._workers):
            time.sleep(0.01)
        busy = next(w for w in pool._workers if w.number is not None)
        time.sleep(0.3)
        os.kill(busy._process.pid, how)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_student_measured_again(
    teacher, students, workers
):
    rung = Rung("slow", recipe=Recipe(5, 32, learning_rate=0.1))
    expected = evaluate(students[:4], teacher, evaluator(rung))
    thread = kill_soon(workers, signal.SIGKILL)
    assert evaluate(students[:4], teacher, evaluator(rung, workers)) == expected
    thread.join()
    assert all(isinstance(score, Score) for score in expected)


def test_a_stuck_worker_is_replaced_and_its_student_measured_again(teacher, students):
    pool = Workers(1, longest=8.0)
    list(pool.run([Trial(students[0], 0)], teacher, settings()))
    thread = kill_soon(pool, signal.SIGSTOP)
    rung = Rung("slow", recipe=Recipe(3, 32, learning_rate=0.1))
    (score,) = evaluate(students[1:2], teacher, evaluator(rung, pool))
    thread.join()
    pool.close()
    assert isinstance(score, Score)


@pytest.mark.slow
def test_a_student_that_always_takes_too_long_is_tried_twice(
    teacher, students, monkeypatch
):
    start = module._Worker.start
    pool = Workers(1, longest=0.01)  # an epoch, of a hundred
    starts = []
    monkeypatch.setattr(
        module._Worker, "start", lambda *args: (starts.append(args), start(*args))
    )
    (result,) = evaluate(students[:1], teacher, evaluator(SLOW, pool))
    pool.close()
    assert isinstance(result, Failure)
    assert "took longer than 1 s" in result.reason
    assert result.retryable
    assert len(starts) == 2


@pytest.mark.slow
def test_a_worker_killed_as_it_starts_is_replaced(teacher, students, workers, caplog):
    def kill() -> None:
        while not workers._workers:
            time.sleep(0.01)
        workers._workers[0]._process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    found = list(workers.run([Trial(students[0], 0)] * 2, teacher, settings()))
    thread.join()
    assert all(isinstance(each.result, Score) for each in found)
    assert "exit code -9) as it started; another is started" in caplog.text


def test_workers_that_all_die_as_they_start_are_an_error_that_says_so(
    teacher, students, workers, monkeypatch
):
    monkeypatch.setattr(module, "PROGRAM", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match=r"exit code 3\), the last of 6 in a row"):
        list(workers.run([Trial(students[0], 0)] * 2, teacher, settings()))


@pytest.mark.slow
def test_a_worker_killed_while_idle_costs_its_next_student_no_attempt(
    teacher, students
):
    pool = Workers(1)
    list(pool.run([Trial(students[0], 0)], teacher, settings()))
    (idle,) = processes(pool)
    idle.kill()
    # Its main thread is a zombie while the others still end.
    os.waitid(os.P_PID, idle.pid, os.WEXITED | os.WNOWAIT)
    (found,) = pool.run([Trial(students[1], 0)], teacher, settings())
    pool.close()
    assert isinstance(found.result, Score)


# Ready, a job, and the beginning of an answer of 100 bytes.
CUT_SHORT = """
import os, struct, sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[2]))
connection.send(None)
connection.recv_bytes()
os.write(connection.fileno(), struct.pack("!i", 100) + b"half")
"""


def test_an_answer_that_was_cut_short_is_the_death_of_its_worker(
    teacher, students, monkeypatch
):
    monkeypatch.setattr(module, "PROGRAM", CUT_SHORT)
    pool = Workers(1)
    (found,) = pool.run([Trial(students[0], 0)], teacher, settings())
    pool.close()
    assert isinstance(found.result, Failure)
    assert "died (exit code 0)" in found.result.reason


def test_no_file_has_to_be_removed_after_a_kill(
    teacher, workers, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    twin = unpack(torch.load(workers._path_of(teacher), mmap=True))
    assert twin.architecture == teacher.architecture
    assert not list(tmp_path.iterdir())


def test_a_full_folder_for_temporary_files_is_an_error_that_names_it(
    teacher, workers, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _ = teacher.fingerprint  # trained
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(
            OSError, match=f"to {tmp_path} .* File too large; set TMPDIR"
        ):
            workers._path_of(teacher)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_forked_process_leaves_its_parents_workers_alone():
    script = textwrap.dedent(
        """
        import os, sys, torch
        from n2n_gym import Workers, trace
        from n2n_gym.evaluators.distillation import Settings
        from n2n_gym.evaluators.rungs import Rung
        from n2n_gym.evaluators.runner import Trial
        from n2n_gym.tasks.sets import digits
        from n2n_gym.teachers.teacher import Teacher, Trained
        from tests.networks import SmallResNet

        network, task = SmallResNet(), digits()
        trained = Trained(network.state_dict(), 0.1, torch.zeros(1, 10))
        start = trace(network, task.input_shape)
        teacher = Teacher("small", task, start, lambda: trained)
        settings = Settings(Rung("bare"), torch.device("cpu"), "float32", 1)
        pool = Workers(1)

        def worker():
            (found,) = pool.run([Trial(start, 0)], teacher, settings)
            return pool._workers[0]._process.pid

        before = worker()
        child = os.fork()
        if child == 0:
            list(pool.run([], teacher, settings))
            sys.exit(len(pool._workers))
        assert os.waitpid(child, 0)[1] == 0
        assert worker() == before
        """
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.fixture(scope="module")
def large() -> Teacher:
    """An untrained teacher whose maps of a whole batch take a gigabyte."""
    generator = np.random.default_rng(0)

    def read() -> Arrays:
        images = generator.integers(0, 256, (200, 64, 64), np.uint8)
        labels = np.arange(200) % 10
        return dict.fromkeys(("train", "validation", "test"), (images, labels))

    task = Task("noise", (1, 64, 64), 10, read)
    network = nn.Sequential(
        *(nn.Conv2d(1, 320, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(320, 320, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(320, 10)),
    )
    trained = Trained(network.state_dict(), 0.1, torch.zeros(200, 10))
    architecture = trace(network, task.input_shape)
    return Teacher("large", task, architecture, lambda: trained)


@pytest.mark.slow
def test_a_student_that_exhausts_memory_is_a_failure_and_the_others_have_scores(large):
    # The whole takes more than four gigabytes, the small student less than two; how
    # much less differs from machine to machine.
    pool = Workers(1, memory=3_000_000_000)
    start = large.architecture
    students = [start, shrink(start, dict.fromkeys(shrinkages(start), 0.1))]
    whole_batch = Rung("whole", recipe=Recipe(1, 200, learning_rate=1e-3))
    evaluator = DistillationEvaluator(
        whole_batch, device="cpu", precision="float32", runner=pool
    )
    failed, scored = evaluate(students, large, evaluator)
    pool.close()
    assert isinstance(failed, Failure)
    assert "memory" in failed.reason
    assert isinstance(scored, Score)
    env = RemoveEnv(large, evaluator=evaluator)
    env.reset()
    _, reward, terminated, _, info = env.step(0)
    assert terminated
    assert reward == -1
    assert "memory" in info["error"]


@pytest.mark.slow
def test_workers_end_with_their_parent():
    script = textwrap.dedent(
        """
        import sys, time
        from n2n_gym.evaluators.workers import _Worker
        worker = _Worker(None)
        worker.connection.recv()
        print(worker._process.pid, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 10)
    assert not psutil.pid_exists(pid)


SCRIPT = """
import numpy as np
import gymnasium as gym
import n2n_gym

envs = gym.make_vec(
    "N2NShrink-v0", num_envs=2, teacher="tests.networks:make_small",
    evaluator="inherit", evaluator_workers=1, store=False,
)
envs.reset()
is_over = False
while not is_over:
    _, _, terminated, _, infos = envs.step(np.array([9, 8]))
    is_over = terminated.all()
assert "error" not in infos, infos
print("fine")
"""


@pytest.mark.slow
def test_a_script_needs_no_main_guard_and_files_beside_it_stand_in_for_nothing(
    tmp_path,
):
    (tmp_path / "queue.py").write_text("raise SystemExit('not to be run')")
    # As in an installed command, the current folder is not on the path.
    program = f"import sys; sys.path[0] = {str(ROOT)!r}\n{SCRIPT}"
    arguments = [sys.executable, "-c", program]
    done = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_closing_an_environment_ends_the_workers_that_it_started(teacher):
    env = RemoveEnv(teacher, evaluator="inherit", evaluator_workers=1, store=False)
    env.reset(options={"decisions": [0] * (len(env.decisions) - 1)})
    _, _, terminated, _, info = env.step(0)
    assert terminated
    assert "error" not in info
    (process,) = processes(env.evaluator.runner)
    env.close()
    assert not process.is_running()


def test_closing_an_environment_leaves_workers_alone_that_it_was_given(
    teacher, workers
):
    list(workers.run([Trial(teacher.architecture, 0)], teacher, settings()))
    before = processes(workers)
    RemoveEnv(
        teacher, evaluator="inherit", evaluator_workers=workers, store=False
    ).close()
    assert all(process.is_running() for process in before)


def test_copies_share_workers_and_a_pickled_one_starts_its_own(teacher, workers):
    list(workers.run([Trial(teacher.architecture, 0)], teacher, settings()))
    assert copy.deepcopy(workers) is workers
    twin = pickle.loads(pickle.dumps(workers))
    assert (twin.count, twin.longest, twin.memory) == (2, workers.longest, None)
    assert not twin._workers


@pytest.mark.slow
def test_one_pool_keeps_two_tasks_apart(teacher, students, workers):
    """The same weights, another task."""
    shifted = {
        name: Split(split.images, (split.labels + 1) % 10)
        for name, split in teacher.task.splits.items()
    }
    task = Task.of_splits(
        "shifted",
        (1, 8, 8),
        10,
        shifted,
        augmentation=teacher.task.augmentation,
        resident_bytes=None,
    )
    other = Teacher("other", task, teacher.architecture, lambda: teacher.trained)
    found = [
        evaluate(students[:1], each, evaluator(runner=workers))
        for each in (teacher, other)
    ]
    expected = [evaluate(students[:1], each, evaluator()) for each in (teacher, other)]
    assert found == expected
    assert found[0] != found[1]


@pytest.mark.parametrize("workers", [0, -1, True, "4", 2.0, Path("x")])
def test_a_wrong_number_of_workers_is_refused(workers):
    with pytest.raises(ValueError, match=re.escape(str(workers))):
        load_evaluator("short", "cpu", workers=workers)


@pytest.mark.parametrize(
    "place", [InProcess, lambda: Workers(1)], ids=["here", "there"]
)
def test_a_score_is_kept_with_the_machine_it_was_measured_on(place, teacher, tmp_path):
    runner = place()
    major, minor, *_ = torch.__version__.split(".")
    instructions = torch.backends.cpu.get_cpu_capability()
    with ScoreStore(tmp_path / "scores.sqlite") as store:
        scores = DistillationEvaluator(
            QUICK, device="cpu", precision="float32", runner=runner, store=store
        )
        scores([teacher.architecture], teacher)
        (entry,) = store
    runner.close()
    assert entry.provenance.torch == f"{major}.{minor}"
    assert entry.provenance.instructions == f"{platform.machine()} {instructions}"
