"""A run with a time limit that is killed goes on, and its plan gives the same files."""

import random
from collections import Counter
from functools import partial

import pytest

from benchmarks.resumes import PLAN, differences, run_to_the_end, wait_a_while


@pytest.mark.slow
def test_a_killed_run_and_the_repetition_of_its_plan_have_the_same_files(tmp_path):
    random.seed(1)
    wait = partial(wait_a_while, 25.0)
    killed, repeated = tmp_path / "killed", tmp_path / "repeated"
    hit: Counter[str] = Counter()
    run_to_the_end(killed, ["--minutes", "2"], 2, hit, wait)
    assert hit.total() == 2
    run_to_the_end(repeated, ["--plan", str(killed / PLAN)], 0, Counter(), wait)
    assert differences(killed, repeated) == []
