import json

import pytest

from benchmarks.paper import ROWS, as_markdown, read


def test_rewards_follow_from_the_papers_own_figures():
    for row in ROWS:
        if row.accuracy is not None:
            share = row.accuracy / (row.accuracy - row.change)
            assert row.reward == pytest.approx((1 - row.times**-2) * share, abs=0.006)


def test_a_finished_run_fills_its_row(tmp_path):
    (row,) = (r for r in ROWS if r.folder == "cifar10-resnet18")
    assert as_markdown(tmp_path).count(" /  |") > 4 * len(ROWS) - 8
    folder = tmp_path / row.folder
    folder.mkdir()
    summary = {
        "teacher": {"num_params": 1_000, "test_accuracy": 0.90},
        "student": {"num_params": 100, "test_accuracy": 0.81},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    ours = read(folder)
    assert ours == pytest.approx((10.0, -9.0, 0.99 * 0.9, 81.0))
    assert "11.0 / 10.0 | 91.81 / 81.00 | -0.20 / -9.00 | 0.990 / 0.891" in as_markdown(
        tmp_path
    )


def test_commands_say_where_their_results_belong(tmp_path):
    for row in ROWS:
        command = row.command(tmp_path)
        assert command.endswith(f"--output {tmp_path / row.folder}")
        assert f"--shrinkage-updates {0 if row.stages == 1 else 100} " in command
    assert len({row.folder for row in ROWS}) == len(ROWS)
