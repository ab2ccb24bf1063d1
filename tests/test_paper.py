import json

import pytest

from benchmarks.paper import (
    CONTROLS,
    DESIGNED,
    ROWS,
    as_markdown,
    commands,
    designed_as_markdown,
    read,
)


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


def test_distilled_designs_fill_their_rows(tmp_path):
    assert len(commands(tmp_path)) == len(ROWS) + 2  # two designs have one command
    (tmp_path / CONTROLS).mkdir()
    line = {"task": "svhn", "control": "squeezenet", "teacher_name": "resnet18"}
    lines = [
        {**line, "num_params": 726_474, "seed": seed, "test": test}
        for seed, test in enumerate((0.89, 0.91))
    ]
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (tmp_path / CONTROLS / "results.jsonl").write_text(text)
    assert "727,000 / 726,474 | 89.34 / 90.00 |" in designed_as_markdown(tmp_path)
    assert len(commands(tmp_path)) == len(ROWS) + 1
    assert DESIGNED[0].command(tmp_path) not in commands(tmp_path)


def test_commands_say_where_their_results_belong(tmp_path):
    for row in ROWS:
        command = row.command(tmp_path)
        assert command.endswith(f"--output {tmp_path / row.folder}")
        assert f"--shrinkage-updates {0 if row.stages == 1 else 100} " in command
    assert len({row.folder for row in ROWS}) == len(ROWS)
