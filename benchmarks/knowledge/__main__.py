"""What a trained policy decides, what it reads, and what rules explain of it.

    python -m benchmarks.knowledge --policy FILE
    python -m benchmarks.knowledge --policy FILE --low-bits   # another decision
    python -m benchmarks.knowledge --policy FILE --show

The policy plays N2NCompress-v0 with ``fit=True`` on the training teachers of a suite
(seen) and on its test teachers (unseen), at several targets, and no student is scored.
The output folder gets the following files:

    results.jsonl               each teacher's mean decisions; resumes after a stop
    summary.csv, decisions.png  removals and rates by depth, layer, channels, target,
                                place relative to skips and to changes of map size
    columns.png                 change of the policy if a column is permuted among the
                                rows with the same kind of decision
    profile.json, rule.json     for the agents depth-profile@FILE and rule@FILE, fitted
                                to the decisions about the seen teachers only

With --low-bits, the policy is a prior for another decision about the unseen teachers:
which convolutions stay in float. ``low_bits.py`` explains the orders that it is
compared with. Each order is a line of ``low_bits/results.jsonl``. The teachers are
trained first, or taken from the cache.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any, Final

import torch
from tqdm.auto import tqdm

from benchmarks.knowledge import low_bits, show
from benchmarks.knowledge.decisions import Table, examine
from benchmarks.knowledge.fitting import explained, fit_profile, fit_rule, in_words
from benchmarks.results import Results
from n2n_agents.rules import KINDS, write_known
from n2n_gym.comparison.statistics import as_table
from n2n_gym.pretraining.suite import Suite, read_suite, read_target

KEY: Final = ("teacher", "task", "policy", "settings")


def examine_all(
    results: Results,
    suite: Suite,
    path: Path,
    sha256: str,
    targets: list[float],
    episodes: int,
) -> None:
    """Examine the decisions about all teachers that the folder does not have yet."""
    done = results.read()
    settings = settings_of(targets, episodes)
    subjects = dict.fromkeys(suite.training, "seen") | dict.fromkeys(
        suite.test, "unseen"
    )
    bar = tqdm(subjects.items())
    for subject, group in bar:
        bar.set_description(subject.key)
        key = (subject.teacher, subject.task, sha256, settings)
        if key in done:
            continue
        table = Table(subject.load(), suite.resources, episodes)
        found = examine(table, table.load(path), targets, seed=0)
        results.add(**dict(zip(KEY, key, strict=True)), group=group, **found)


def settings_of(targets: list[float], episodes: int) -> str:
    """The settings that results depend on, as text."""
    shares = ", ".join(f"{share:.4g}" for share in targets)
    return f"{episodes} episodes at {shares}"


def show_all(lines: list[dict[str, Any]], folder: Path) -> None:
    """Print the tables; write the summary, the figures, the profile and the rule."""
    summaries = list(show.summarise(lines))
    show.write_csv(summaries, folder / "summary.csv")
    print(show.tables(summaries))
    print(show.columns_table(lines))
    show.draw(summaries, folder / "decisions.png")
    show.draw_columns(lines, folder / "columns.png")
    seen, unseen = (
        [line for line in lines if line["group"] == group] for group in show.GROUPS
    )
    if not seen:
        return
    profile, rule = fit_profile(seen), fit_rule(seen)
    write_known(folder / "profile.json", profile)
    write_known(folder / "rule.json", rule)
    print("The rule, fitted to the decisions about seen teachers:\n")
    for kind, line in rule.lines.items():
        print(f"- {in_words(kind, line)}")
    rows = [
        [name, kind, *(f"{explained(known, of, kind):.2f}" for of in (seen, unseen))]
        for name, known in (("depth-profile", profile), ("rule", rule))
        for kind in KINDS
    ]
    print("\nExplained variance of the policy's mean decisions\n")
    print(as_table(["by", "decision", *show.GROUPS], rows))


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument(
        "--policy", type=Path, required=True, help="of the stage compress; safetensors"
    )
    found.add_argument("--suite", default="standard")
    found.add_argument(
        "--targets", type=read_target, nargs="+", help="default: the suite's"
    )
    found.add_argument("--episodes", type=int, default=8, help="per target")
    found.add_argument("--low-bits", action="store_true")
    found.add_argument("--bits", type=int, nargs="+", default=[4, 3], help="per weight")
    found.add_argument("--images", type=int, default=1_000, help="for accuracies")
    found.add_argument("--seeds", type=int, default=3, help="of each random order")
    found.add_argument("--show", action="store_true", help="measure nothing")
    found.add_argument("--output", type=Path, default=Path("runs/knowledge"))
    return found


def main(arguments: list[str] | None = None) -> None:
    command = parser()
    options = command.parse_args(arguments)
    for name, least in (("episodes", 1), ("images", 1), ("seeds", 1)):
        if getattr(options, name) < least:
            command.error(f"--{name} must be at least {least}")
    if min(options.bits) < 2:
        command.error(f"--bits must be at least 2, got {min(options.bits)}")
    torch.set_num_threads(1)
    results = Results(options.output, *KEY)
    rounded = Results(options.output / "low_bits", *low_bits.KEY)
    for each in (results, rounded):
        each.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        suite = read_suite(options.suite)
        sha256 = hashlib.sha256(options.policy.read_bytes()).hexdigest()
        targets = options.targets or list(suite.test_targets)
        episodes = options.episodes
        if options.low_bits and not options.show:
            _measure_low_bits(rounded, suite, sha256, targets, options)
        elif not options.show:
            examine_all(results, suite, options.policy, sha256, targets, episodes)
    except (ValueError, OSError) as error:
        command.error(str(error))
    settings = settings_of(targets, episodes)
    lines = [
        line
        for line in results.read().values()
        if (line["policy"], line["settings"]) == (sha256, settings)
    ]
    if lines:
        show_all(lines, options.output)
    else:
        print(f"{results.path} has no decisions of this policy: {settings}")
    known = rounded.read().values()
    low = [
        line
        for line in known
        if line["policy"] in ("", sha256) and line["played"] in ("", settings)
    ]
    if low:
        print(low_bits.show(low))


def _measure_low_bits(
    results: Results,
    suite: Suite,
    sha256: str,
    targets: list[float],
    options: argparse.Namespace,
) -> None:
    for subject in suite.test:
        for bits in options.bits:
            low_bits.measure_all(
                results,
                (subject.teacher, subject.task),
                subject.load(),
                options.policy,
                sha256,
                settings_of(targets, options.episodes),
                resources=suite.resources,
                targets=targets,
                episodes=options.episodes,
                seeds=options.seeds,
                bits=bits,
                images=options.images,
            )


if __name__ == "__main__":
    main()
