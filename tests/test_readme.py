"""The README's Python runs as it stands."""

import json
import re
from pathlib import Path

import pytest

from n2n_gym.export import save_weights
from n2n_gym.teachers import learning
from n2n_gym.torch_layers import build
from n2n_gym.training import Recipe

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1])
def test_a_block_runs(block, teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(1, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    if "runs/demo" in block:  # what the command would have written
        folder = tmp_path / "runs" / "demo"
        folder.mkdir(parents=True)
        student = build(teacher.architecture)
        save_weights(student, folder / "student.safetensors")
        (folder / "architecture.json").write_text(teacher.architecture.to_json())
        about = {"normalisation": {"mean": [0.5], "std": [0.25]}}
        (folder / "summary.json").write_text(json.dumps(about))
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_blocks_to_run():
    assert len(BLOCKS) == 7
