"""The whole run: from a teacher to a small student on disk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from functools import partial

from n2n_gym.common.files import write_whole
from n2n_gym.compression.agents import agent_of, play_at_random
from n2n_gym.compression.assessment import compare_networks
from n2n_gym.compression.best_so_far import write_best
from n2n_gym.compression.candidates import smallest_students, uniform_students
from n2n_gym.compression.choice import Scored
from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.preparation import Work, prepared
from n2n_gym.compression.shelf import write_shelf
from n2n_gym.compression.student_files import Finished, write_student
from n2n_gym.compression.summary import Summary
from n2n_gym.compression.timing import Timed
from n2n_gym.limits.fitting import widest_uniform
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.report import write_report
from n2n_gym.runs.folder import FINALISTS, ONNX, SUMMARY
from n2n_gym.runs.options import Options


def compress(options: Options, began: float | None = None) -> Summary:
    """Find a small student of a teacher and write it to the output folder.

    Args:
        options: The options of the run, the same as on the command line.
        began: Time by ``time.monotonic`` from which the run's minutes count; None for
            the time of this call.

    Raises:
        ValueError: An option is wrong, no finalist could be distilled or keeps the
            limits, or a resumed run began with another teacher or other images.
        FileExistsError: The output folder has other files, a run with other options, or
            a finished run.
        TooShort: The run's minutes are too few for the necessary work.
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
            work.plan.keep()
            write_best(work.final, work.evaluator, work.run)
            raise
        return _write(work, student, rivals, num_scored, onnx_difference)


def _search(work: Work) -> list[Scored]:
    """Run the searches; return all students that they scored."""
    search, timing = work.search, work.search.timing
    found: list[Scored] = []
    if isinstance(timing, Timed):
        found = search.hand_made()
        timing.start_search()
    name = work.options.agent
    removals = timing.removal_updates()
    removed, shrunk = search.run(
        name, agent_of(work.options), removals, timing.shrinkage_updates
    )
    # If shrinkage has hardly been learned, the result of removal may be the best.
    return found + removed + shrunk + search.around_uniform()


def _choose(work: Work, found: list[Scored]) -> Finished:
    """The student that the run chooses, distilled to the end."""
    timing, requirements = work.search.timing, work.search.requirements
    if isinstance(timing, Timed):
        work.final.prepare(work.plan, timing)
    whole, granularity = work.teacher.architecture, work.options.granularity
    last = smallest_students(whole, requirements, granularity)
    every = [*found, *uniform_students(requirements)]
    return work.final.choose(every, "the best students", last)


def _compare(work: Work, student: Finished) -> dict[str, Finished | None]:
    """The rivals and controls to compare the student with, by name.

    The result is empty if controls are not wanted or there is no time for them. The
    value is None for a rival or control that fails.
    """
    options, search, final = work.options, work.search, work.final
    if options.controls == "none":
        return {}
    teacher, requirements = work.teacher, search.requirements
    num_params, keep = student.student.num_params, requirements.keep
    thin = partial(uniform_student, teacher.architecture, num_params, keep=keep)
    alike = partial(widest_uniform, requirements) if requirements else thin
    weakest = partial(magnitude_student, teacher, num_params, keep=keep)
    found = final.compare_sizes({"uniform width": alike, "magnitude": weakest})
    rivals = {
        "uniform": found.get("uniform width"),
        "magnitude": found.get("magnitude"),
    }
    if options.controls == "all":
        # As many students as the policies and the local search have scored.
        updates = options.shrinkage_updates * (2 if requirements else 1)
        removed, shrunk = search.run(
            "random", play_at_random, options.removal_updates, lambda: updates
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
    """Write the shelf, the report and then the summary, which marks the run's end."""
    teacher, folder = work.teacher, work.run.folder
    others = [*work.final.runners_up(), *filter(None, rivals.values())]
    shelf = write_shelf(student, others, teacher, folder)
    path = folder / ONNX
    compared = compare_networks(teacher, student, path, work.final.device)
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
        work.run.seconds(),
        shelf,
        teacher.task.counts_without_labels(),
        work.final.falls_short,
    )
    content = summary.to_dict()
    write_report(folder, content)
    shutil.rmtree(folder / FINALISTS, ignore_errors=True)
    work.plan.keep()
    # The summary marks a run as finished, so it is written last.
    write_whole(folder / SUMMARY, json.dumps(content, indent=1).encode())
    return summary
