"""The whole path: from a teacher to a small student on disk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from n2n_agents import reinforce
from n2n_agents.logs import check_formats, log_updates
from n2n_agents.search import random_search
from n2n_gym.common.files import write_whole
from n2n_gym.compression.assessment import compare_networks
from n2n_gym.compression.best_so_far import write_best
from n2n_gym.compression.choice import Scored
from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.preparation import Work, prepared
from n2n_gym.compression.shelf import write_shelf
from n2n_gym.compression.stages import OnStudent
from n2n_gym.compression.student_files import Finished, write_student
from n2n_gym.compression.summary import Summary
from n2n_gym.compression.timing import ROLLOUTS, Timed
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.envs.render import draw_student
from n2n_gym.limits.fitting import widest_uniform
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.report import write_report
from n2n_gym.runs.folder import FINALISTS, ONNX, SUMMARY, fresh_folder
from n2n_gym.runs.options import Options


def compress(options: Options, began: float | None = None) -> Summary:
    """Find a small student of a teacher and write it to the output folder.

    Args:
        began: By ``time.monotonic``, where minutes count from earlier than this call.

    Raises:
        ValueError: An option is not what is accepted, every finalist diverged, or the
            run began with another teacher or other images.
        FileExistsError: The output folder holds another run.
        TooShort: The minutes are too few.
    """
    began = time.monotonic() if began is None else began
    with prepared(options, began) as work:
        try:
            found = _search(work)
            num_scored = work.run.history.num_lines
            student = _choose(work, found)
            onnx_difference = write_student(student, work.teacher, work.run.folder)
            rivals = _compare(work, student)
        except KeyboardInterrupt:  # a second one ends the process
            write_best(work.final, work.evaluator, work.run)
            raise
        return _write(work, student, rivals, num_scored, onnx_difference)


def _search(work: Work) -> list[Scored]:
    """All students that were scored."""
    search, timing = work.search, work.search.timing
    found: list[Scored] = []
    if isinstance(timing, Timed):
        found = search.hand_made()
        timing.start_search()
    agent = partial(_reinforce, options=work.options)
    removals = timing.removal_updates()
    removed, shrunk = search.run("reinforce", agent, removals, timing.shrinkage_updates)
    # Where shrinkage has hardly been learned, what removal left may be the best.
    return found + removed + shrunk + search.around_uniform()


def _choose(work: Work, found: list[Scored]) -> Finished:
    """The student, distilled to the end."""
    last = work.final.smallest(work.options.granularity)
    every = [*found, *work.final.uniform()]
    return work.final.choose(every, "the best students", last)


def _compare(work: Work, student: Finished) -> dict[str, Finished | None]:
    """What the student is compared with."""
    options, search, final = work.options, work.search, work.final
    if options.controls == "none" or not search.timing.allows_controls():
        return {}
    teacher, requirements = work.teacher, search.requirements
    num_params, keep = student.student.num_params, requirements.keep
    thin = partial(uniform_student, teacher.architecture, num_params, keep=keep)
    alike = partial(widest_uniform, requirements) if requirements else thin
    weakest = partial(magnitude_student, teacher, num_params, keep=keep)
    found = final.compare_sizes({"uniform width": alike, "magnitude": weakest})
    rivals = {
        "uniform": found["uniform width"],
        "magnitude": found["magnitude"],
    }
    if options.controls == "all":
        # As many as the policies and the local search have scored.
        updates = options.shrinkage_updates * (2 if requirements else 1)
        removed, shrunk = search.run(
            "random", _random, options.removal_updates, lambda: updates
        )
        rivals["random"] = final.compare(removed + shrunk, "random search")
    return rivals


def _write(
    work: Work,
    student: Finished,
    rivals: Mapping[str, Finished | None],
    num_scored: int,
    onnx_difference: float,
) -> Summary:
    """The shelf, the report and the summary; with that the run is finished."""
    teacher, folder = work.teacher, work.run.folder
    others = [*work.final.runners_up(), *filter(None, rivals.values())]
    shelf = write_shelf(student, others, teacher, folder)
    path = folder / ONNX
    compared = compare_networks(teacher, student.network, path, work.final.device)
    summary = Summary(
        teacher.score,
        compared.teacher.accuracy,
        teacher.normalise,
        student,
        rivals.get("uniform"),
        rivals.get("magnitude"),
        rivals.get("random"),
        num_scored,
        onnx_difference,
        work.search.requirements.rows(student.student, student.score.accuracy, path),
        compared,
        time.monotonic() - work.began,
        shelf,
        teacher.task.counts_without_labels(),
        work.final.falls_short,
    )
    content = json.dumps(summary.to_dict(), indent=1)
    write_report(folder, json.loads(content))
    shutil.rmtree(folder / FINALISTS, ignore_errors=True)
    work.plan.keep()
    # The summary is what ends a run: it comes last.
    write_whole(folder / SUMMARY, content.encode())
    return summary


def _reinforce(
    env: VectorEnv[Any, Any, Any],
    updates: int,
    seed: int,
    report: OnStudent,
    path: Path,
    *,
    options: Options,
) -> None:
    if options.init_policy is None:
        policy = reinforce.make_policy(env, seed=seed)
    else:
        policy = reinforce.load_policy(options.init_policy / path.name)
    folder = path.with_name(path.name.replace(".policy.pt", ".log"))
    assert isinstance(env.unwrapped, CompressionVectorEnv)
    whole = env.unwrapped.envs[0].teacher.architecture

    def picture(info: Mapping[str, Any]) -> NDArray[np.uint8]:
        return draw_student(whole, Architecture.from_json(info["student"]))

    formats = check_formats(options.logs)
    logs = (
        log_updates(fresh_folder(folder), formats, picture=picture)
        if formats
        else nullcontext()
    )

    def tell(episode: reinforce.Episode) -> None:
        report(episode.reward, episode.info)
        if log is not None:
            log.episode(episode)

    try:
        with logs as log:
            reinforce.train(
                env,
                policy,
                reinforce.FROZEN if options.frozen else reinforce.MODERN,
                updates=updates,
                seed=seed,
                on_episode=tell,
                on_update=log,
            )
    finally:  # it may have had enough
        reinforce.save_policy(policy, path)


def _random(
    env: VectorEnv[Any, Any, Any],
    updates: int,
    seed: int,
    report: OnStudent,
    path: Path,
) -> None:
    random_search(env, episodes=updates * ROLLOUTS, seed=seed, on_episode=report)
