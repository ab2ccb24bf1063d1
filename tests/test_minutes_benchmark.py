"""What the benchmark of --minutes records, compares and continues."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import minutes as module
from benchmarks.minutes import RunFailed, environment, measure_all, refuse_a_mix
from benchmarks.minutes_table import KEY, lines_of, show
from benchmarks.results import Results

HERE = {"commit": "abc", "versions": {"torch": "2"}, "processor": "a", "threads": 2}
CHOSEN = {
    **{"teacher": "t", "task": "digits", "weights": None, "minutes": [4.0]},
    **{"seeds": [0, 1], "busy": False, "rival": False},
}


def bits(right: list[int]) -> str:
    return np.packbits(np.array(right, bool)).tobytes().hex()


def result(seed: int, student: list[int], **others: list[int]) -> dict:
    networks = {"teacher": [1, 1, 1, 1], "student": student, **others}
    return {
        **dict(zip(KEY, ("digits", "t", None, 4.0, seed, False, False), strict=True)),
        **{"seconds": 200.0, "first_score": 9.0, "num_scored": 9, "num_images": 4},
        "networks": {
            name: {
                **{"num_params": 100, "num_macs": 100},
                **{"accuracy": sum(right) / 4, "right": bits(right)},
            }
            for name, right in networks.items()
        },
    }


def test_a_network_is_compared_with_the_students_of_its_seeds_alone():
    found = [
        result(0, [1, 1, 1, 1], magnitude=[1, 1, 1, 1]),
        result(1, [0, 0, 0, 0]),  # without time for controls
    ]
    *_, line = lines_of(found)
    assert line.startswith("magnitude  n=1 ")
    assert "student 100.00%, +0.00 (+0.00 to +0.00)" in line
    assert any(each.startswith("student    n=2 ") for each in lines_of(found))


def test_results_of_another_commit_or_machine_are_not_continued(tmp_path):
    results = Results(tmp_path, *KEY)
    results.add(**result(0, [1] * 4), **HERE, load=[0.5, 0, 0])
    refuse_a_mix(results, {**HERE, "load": [9.0, 0, 0]})
    with pytest.raises(SystemExit, match="commit was abc, is abd; threads was 2, is 1"):
        refuse_a_mix(results, {**HERE, "commit": "abd", "threads": 1})


def test_early_results_are_shown_and_not_continued(tmp_path, capsys):
    early = Results(Path(module.__file__).parent / "data" / "minutes_first", *KEY)
    show(early)
    assert (
        "before commit, versions and processor were recorded" in capsys.readouterr()[0]
    )
    with pytest.raises(SystemExit, match="commit was not recorded, is abc"):
        refuse_a_mix(early, HERE)


def test_what_a_result_comes_from_is_shown(tmp_path, capsys):
    results = Results(tmp_path, *KEY)
    results.add(**result(0, [1] * 4), **HERE, load=[0.5, 0, 0])
    show(results)
    said = capsys.readouterr()[0]
    assert '"commit": "abc"' in said
    assert "load at the end 0.5" in said


def test_a_run_inherits_no_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setenv("N2N_DATA", "here")
    given = environment("cache")
    assert not given.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    assert (given["N2N_DATA"], given["N2N_CACHE"]) == ("here", "cache")


def test_a_run_that_fails_is_a_line_and_the_next_one_begins(
    tmp_path, monkeypatch, capsys
):
    asked = []

    def measure(options, **_):
        asked.append(options["seed"])
        if len(asked) == 1:
            raise RunFailed("TooShort: 4 minutes are too few")
        return {**result(options["seed"], [1] * 4), **HERE, "load": [0.0] * 3}

    def measured(options, **more):
        found = measure(options, **more)
        return {name: found[name] for name in found if name not in KEY}

    monkeypatch.setattr(module, "measure", measured)
    monkeypatch.setattr(module, "surroundings", lambda: {**HERE, "load": [0.0] * 3})
    monkeypatch.setattr(
        module.subprocess,
        "run",
        lambda *_, **__: argparse.Namespace(stdout=json.dumps(HERE)),
    )
    results = Results(tmp_path, *KEY)
    measure_all(argparse.Namespace(**CHOSEN), results)
    assert asked == [0, 1]
    show(results)
    assert (
        "4 minutes, seed 0: TooShort: 4 minutes are too few" in capsys.readouterr()[0]
    )
    measure_all(argparse.Namespace(**CHOSEN), results)  # what failed is repeated
    assert asked == [0, 1, 0]
    assert not any("failure" in each for each in results.read().values())
