"""The scripts under examples, as a user starts them, with a small teacher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = "tests.networks:make_small"
RUNS = {
    "masked_ppo.py": ([SMALL, "6"], "best of 6: "),
    "cleanrl_style.py": ([SMALL, "2"], "update 1: mean reward "),
    "own_network.py": (["1", "{folder}"], "x smaller, "),
    "n2n_bench.py": ([], "mean test regret"),
    "own_agent.py": ([SMALL, "4", "{folder}/run"], "own_agent:search"),
}


def test_each_example_is_short_and_tested():
    scripts = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert scripts.keys() == RUNS.keys()
    for name, text in scripts.items():
        assert len(text.splitlines()) <= 50, name
        assert f"python examples/{name}" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_it_does_what_it_says(name, tmp_path):
    if name == "masked_ppo.py":
        pytest.importorskip("sb3_contrib")
    arguments, said = RUNS[name]
    paths = [str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [
            *(sys.executable, str(EXAMPLES / name)),
            *(each.format(folder=tmp_path) for each in arguments),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert said in result.stdout + result.stderr
