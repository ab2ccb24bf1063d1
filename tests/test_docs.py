"""The Python of the README and of the documentation runs as it stands."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import coverage
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.teachers import learning

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "data" / "coverage" / "results.jsonl"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}, {block.splitlines()[-1]}")
    for page in PAGES
    if "environments" not in page.parts  # docstrings, written as the site is built
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block, finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(1, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    if "runs/demo" in block:  # what the command would have written
        shutil.copytree(finished_run, tmp_path / "runs" / "demo")
    exec(compile(block, "a page", "exec"), {})


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 11


def test_the_table_of_networks_is_of_the_results_kept():
    """What ``python -m benchmarks.coverage --show`` prints."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    assert coverage.table(lines) in (ROOT / "benchmarks" / "results.md").read_text()


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            target = page.parent / link
            is_made = target.parent.name == "environments"
            assert is_made or target.exists(), f"{page}: {link}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    copy = tmp_path / "repository"  # it writes pages beside its own
    for name in ("docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("data"))
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "docs", "site"]
    result = subprocess.run(
        [sys.executable, *command], cwd=copy, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for name in ("index", "tutorial", "environments/N2NRemove-v0", "commands", "api"):
        assert (copy / "site" / f"{name}.html").is_file()
