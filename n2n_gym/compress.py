"""The whole path: from a teacher to a small student on disk."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tqdm.auto import tqdm

from agents import reinforce
from agents.logs import check_formats, log_updates
from agents.search import random_search
from n2n_gym.architecture import Architecture
from n2n_gym.controls import magnitude_student, uniform_student
from n2n_gym.decisions import GRANULARITIES, removals
from n2n_gym.envs import CompressionEnv, CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.evaluators import (
    Evaluator,
    Workers,
    default_runner,
    load_evaluator,
    load_store,
)
from n2n_gym.export import export_onnx, save_weights
from n2n_gym.finalists import ROUNDS, Finalists, Finished, Scored, test_accuracy
from n2n_gym.places import write_whole
from n2n_gym.rewards import Score
from n2n_gym.teachers import Statistics, Teacher, load_teacher
from n2n_gym.training import Normalisation, pick_device

logger = logging.getLogger(__name__)

STAGES: Final = ("remove", "shrink")
POLICY: Final = "{agent}-{stage}.policy.pt"  # the file of a stage's policy
ROLLOUTS: Final = reinforce.MODERN.rollouts  # episodes an update


@dataclass(frozen=True)
class Options:
    """What ``n2n-gym compress`` is asked for; each is an option of the command.

    Attributes:
        shrinkage_updates: Of stage two's policy; with 0, removal is all that is done.
        evaluator: The rung that the search scores students with.
        init_policy: The folder of an earlier run, whose policies this one starts from;
            they may have been trained on another teacher.
        frozen: Whether those play as they are.
        logs: Formats in which the training's progress is written: "csv", "json",
            "tensorboard".
        workers: Processes that students are distilled in; by default as many as there
            are cores, and students in a batch.
        store: Path or URL of the scores' database; in the cache folder by default.
    """

    teacher: str = "resnet18"
    task: str = "digits"
    output: Path = Path("runs/demo")
    removal_updates: int = 10
    shrinkage_updates: int = 40
    final_epochs: int = 60
    evaluator: str = "short"
    init_policy: Path | None = None
    frozen: bool = False
    logs: tuple[str, ...] = ()
    workers: int | None = None
    store: str | None = None
    weights: str | None = None
    normalisation: Statistics | None = None
    granularity: str = "unit"
    controls: bool = True
    seed: int = 0
    device: str | None = None
    train_teacher: bool = False


@dataclass
class Summary:
    """What a run found: the teacher, the student, and what to compare it with."""

    teacher: Score
    teacher_test_accuracy: float
    normalise: Normalisation  # what goes before the networks
    student: Finished
    uniform: Finished | None
    magnitude: Finished | None
    random: Finished | None
    num_scored: int
    onnx_difference: float
    seconds: float


def compress(options: Options) -> Summary:
    """Find a small student of a teacher and write it to the output folder.

    Raises:
        ValueError: An option is not what is accepted, or every finalist diverged.
        FileExistsError: The output folder holds another run.
    """
    started = time.perf_counter()
    _check_learning(options)
    device = pick_device(options.device)
    store = load_store(True if options.store is None else options.store)
    most, _ = ROUNDS[0]
    runner = Workers(options.workers) if options.workers else default_runner(most)
    evaluator = (
        load_evaluator(options.evaluator, device)
        if ":" in options.evaluator
        else load_evaluator(options.evaluator, device, workers=runner, store=store)
    )
    output = options.output
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; give another output folder")
    teacher = load_teacher(
        options.teacher,
        options.task,
        weights=options.weights,
        normalisation=options.normalisation,
        device=device,
        train_teacher=options.train_teacher,
    )
    if not removals(teacher.architecture, options.granularity):
        raise ValueError(
            f"there is nothing to remove from {teacher.name} at the granularity "
            f"{options.granularity!r}; {_numbers_of_removals(teacher)}"
        )
    teacher_score = teacher.score  # trained now: the searches' bars are theirs alone
    output.mkdir(parents=True, exist_ok=True)
    chosen = json.dumps(asdict(options), indent=1, default=str)
    write_whole(output / "options.json", chosen.encode())
    final = Finalists(teacher, options.final_epochs, device, runner, store)
    with closing(runner), open(output / "history.jsonl", "w") as file:
        history = _History(file)
        search = _Search(teacher, evaluator, options, history)
        removed, shrunk = search.run("reinforce", partial(_reinforce, options=options))
        student = final.choose(shrunk or removed, "the best students")
        onnx_difference = _write_student(student, teacher, output)
        num_scored = history.num_lines
        uniform = magnitude = random = None
        if options.controls:
            num_params = student.student.num_params
            thin = partial(uniform_student, teacher.architecture, num_params)
            uniform = final.compare_size(thin, "uniform width", history.add)
            thin = partial(magnitude_student, teacher, num_params)
            magnitude = final.compare_size(thin, "magnitude", history.add)
            # Random shrinkage hardly ever helps, so that it may offer either stage's.
            removed, shrunk = search.run("random", _random)
            random = final.compare(removed + shrunk, "random search")
    summary = Summary(
        teacher_score,
        test_accuracy(teacher.network(device), teacher, device),
        teacher.normalise,
        student,
        uniform,
        magnitude,
        random,
        num_scored,
        onnx_difference,
        time.perf_counter() - started,
    )
    write_whole(output / "summary.json", json.dumps(_plain(summary), indent=1).encode())
    return summary


def _check_learning(options: Options) -> None:
    """Raise a ValueError now, not after the first stage."""
    check_formats(options.logs)
    if options.frozen and options.init_policy is None:
        raise ValueError("frozen policies must come from somewhere: give init_policy")
    if options.init_policy is not None:
        for stage in STAGES:
            path = options.init_policy / POLICY.format(agent="reinforce", stage=stage)
            if not path.is_file():
                raise ValueError(f"there is no policy {path}")
            reinforce.load_policy(path)


def _numbers_of_removals(teacher: Teacher) -> str:
    start = teacher.architecture
    return ", ".join(f"{g!r} has {len(removals(start, g))}" for g in GRANULARITIES)


class _History:
    """A line of JSON for each student scored."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.num_lines = 0

    def add(self, search: str, stage: str, reward: float, info: dict[str, Any]) -> None:
        plain = {key: value for key, value in info.items() if key != "action_mask"}
        line = {"search": search, "stage": stage, "reward": reward, **plain}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.num_lines += 1


# An agent plays episodes in an environment, as many as there are updates ask for, and
# tells of the return and the last info of each.
Report = Callable[[float, dict[str, Any]], None]
Agent = Callable[[CompressionVectorEnv, int, int, Report, Path], None]


def _reinforce(
    env: CompressionVectorEnv,
    updates: int,
    seed: int,
    report: Report,
    path: Path,
    *,
    options: Options,
) -> None:
    if options.init_policy is None:
        policy = reinforce.make_policy(env, seed=seed)
    else:
        policy = reinforce.load_policy(options.init_policy / path.name)
    folder = path.with_name(path.name.replace(".policy.pt", ".log"))
    logs = log_updates(folder, options.logs) if options.logs else nullcontext()
    with logs as log:
        reinforce.train(
            env,
            policy,
            reinforce.FROZEN if options.frozen else reinforce.MODERN,
            updates=updates,
            seed=seed,
            on_episode=lambda episode: report(episode.reward, episode.info),
            on_update=log,
        )
    reinforce.save_policy(policy, path)


def _random(
    env: CompressionVectorEnv, updates: int, seed: int, report: Report, path: Path
) -> None:
    random_search(env, episodes=updates * ROLLOUTS, seed=seed, on_episode=report)


@dataclass
class _Search:
    """Both stages of a search by some agent."""

    teacher: Teacher
    evaluator: Evaluator
    options: Options
    history: _History

    def run(self, name: str, agent: Agent) -> tuple[list[Scored], list[Scored]]:
        """Every student it scored in stage one, and in stage two if there is one."""
        options = self.options
        remove = RemoveEnv(
            self.teacher,
            granularity=options.granularity,
            evaluator=self.evaluator,
        )
        removed = self._stage(name, "remove", agent, remove, options.removal_updates)
        if not options.shrinkage_updates:
            return removed, []
        best = max(removed, key=lambda scored: scored.reward).student
        shrink = ShrinkEnv(self.teacher, start=best, evaluator=self.evaluator)
        shrunk = self._stage(name, "shrink", agent, shrink, options.shrinkage_updates)
        return removed, shrunk

    def _stage(
        self,
        name: str,
        stage: str,
        agent: Agent,
        env: CompressionEnv[Any],
        updates: int,
    ) -> list[Scored]:
        found: list[Scored] = []
        with tqdm(total=updates * ROLLOUTS, desc=f"{name}: {stage}") as bar:

            def report(reward: float, info: dict[str, Any]) -> None:
                self.history.add(name, stage, reward, info)
                found.append(Scored(reward, Architecture.from_json(info["student"])))
                best = max(found, key=lambda scored: scored.reward)
                times = self.teacher.architecture.num_params / best.student.num_params
                bar.set_postfix_str(
                    f"best reward {best.reward:.4f}, {times:.0f}x smaller"
                )
                bar.update()

            path = self.options.output / POLICY.format(agent=name, stage=stage)
            # One batch of students an update, for the workers to share.
            batch = CompressionVectorEnv(env, ROLLOUTS)
            agent(batch, updates, self.options.seed, report, path)
        return found


def _write_student(finished: Finished, teacher: Teacher, output: Path) -> float:
    """All the files of a student; gives the ONNX file's difference from torch."""
    student, network = finished.student, finished.network
    write_whole(output / "architecture.json", student.to_json().encode())
    save_weights(network, output / "student.safetensors")
    about = {
        "teacher": teacher.name,
        "task": teacher.task.name,
        "classes": json.dumps(teacher.task.class_names or teacher.task.num_classes),
        "preprocessing": teacher.task.preprocessing,
        "fingerprint": student.fingerprint,
        "test_accuracy": f"{finished.test_accuracy:.4f}",
    }
    images = teacher.task.splits["test"].images[:256]
    return export_onnx(
        network, teacher.normalise, images, output / "student.onnx", about
    )


def _plain(summary: Summary) -> Mapping[str, Any]:
    """The summary as JSON-ready values."""

    def row(score: Score, test_accuracy: float) -> dict[str, Any]:
        return {**score._asdict(), "test_accuracy": test_accuracy}

    rows = {"teacher": row(summary.teacher, summary.teacher_test_accuracy)}
    for name in ("student", "uniform", "magnitude", "random"):
        finished: Finished | None = getattr(summary, name)
        if finished is not None:
            rows[name] = row(finished.score, finished.test_accuracy)
    return {
        **rows,
        "normalisation": asdict(summary.normalise),
        "num_scored": summary.num_scored,
        "onnx_difference": summary.onnx_difference,
        "seconds": summary.seconds,
    }
