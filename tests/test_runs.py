import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.evaluators.evaluator import SizeEvaluator
from n2n_gym.rewards import Failure, Score
from n2n_gym.runs import elapsed
from n2n_gym.runs.folder import check_same, open_run, resumed
from n2n_gym.runs.history import FINAL, History, Remembering, read_history
from n2n_gym.runs.options import Options

ROOT = Path(__file__).parent.parent


@pytest.fixture
def options(tmp_path):
    return Options(output=tmp_path / "run", logs="csv,json", mean="0.5", std="0.25")


def info(number: int) -> dict:
    score = Score(0.5 + number / 100, 100 + number, 1_000, 0.4)
    return {**score._asdict(), "fingerprint": f"student {number}", "action_mask": [1]}


def fill(history: History, numbers) -> None:
    for number in numbers:
        history.add("reinforce", "remove", number / 10, info(number))


# Options.


def test_options_are_written_and_read_again(options, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text(options.to_toml())
    assert Options.read(path) == options


def test_a_misspelt_option_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('techer = "vgg11"\n')
    with pytest.raises(ValueError, match="option 'techer'; did you mean 'teacher'"):
        Options.read(path)
    path.write_text("xyzzy = 1\n")
    with pytest.raises(ValueError, match="option 'xyzzy'; known: teacher, task"):
        Options.read(path)
    path.write_text("teacher: vgg11\n")
    with pytest.raises(ValueError, match="is not TOML"):
        Options.read(path)


def test_the_command_line_comes_before_the_file(options, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("n2n_gym.cli.compression._run", found.append)
    path = tmp_path / "own.toml"
    path.write_text(
        f'output = "{options.output}"\nseed = 3\nfinal-epochs = 7\n'
        f"mean = [0.5]\nstd = [0.25]\nlogs = ['csv', 'json']\n"
    )
    arguments = ["compress", "--config", str(path), "--seed", "4"]
    CliRunner().invoke(app, arguments)
    assert found == [replace(options, seed=4, final_epochs=7)]


def test_a_misspelt_option_of_the_commands_file_is_one_line(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("seeds = 3\n")
    result = CliRunner().invoke(app, ["compress", "--config", str(path)])
    assert result.exit_code == 1
    assert "unknown option 'seeds'; did you mean 'seed'?" in result.stderr


# The folder.


def test_a_run_goes_on_with_the_options_it_has(options):
    with open_run(options):
        pass
    again = resumed(options.output, {"workers": 3})
    assert again == replace(options, workers=3)
    with open_run(again) as run:
        assert run.folder == options.output
    with pytest.raises(ValueError, match="leave out output, seed"):
        resumed(options.output, {"seed": 1, "output": Path("x")})
    with pytest.raises(FileExistsError, match="seed was 0, is 1"):
        check_same(replace(options, seed=1))
    with pytest.raises(ValueError, match="nowhere holds no run"):
        resumed(Path("nowhere"), {})


def test_a_folder_of_something_else_is_left_alone(options):
    options.output.mkdir()
    (options.output / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(FileExistsError, match=r"holds no run: it has thesis.tex"),
        open_run(options),
    ):
        pass
    assert {path.name for path in options.output.iterdir()} <= {"thesis.tex", ".lock"}


def test_a_run_that_was_killed_as_it_began_begins(options):
    options.output.mkdir()
    for name in (".lock", "run.json", "options.toml.123.part"):
        (options.output / name).write_text("")
    with open_run(options):
        pass
    check_same(options)


def test_a_folder_of_another_format_is_refused(options):
    with open_run(options):
        pass
    path = options.output / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    with (
        pytest.raises(ValueError, match="holds a run of format 0, made by n2n-gym"),
        open_run(options),
    ):
        pass


def test_another_format_is_said_before_its_options_are_read(options):
    with open_run(options) as run:
        folder = run.folder
    path = folder / "run.json"
    path.write_text(json.dumps({"format": 99, "n2n_gym": "9.9"}))
    (folder / "options.toml").write_text("unheard_of = 1\n")
    with pytest.raises(ValueError, match=r"format 99, made by n2n-gym 9\.9"):
        resumed(folder, {})
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        resumed(folder, {})


def test_files_that_a_killed_process_was_writing_go(options):
    with open_run(options) as run:
        left = run.folder / "summary.json.123.part"
        left.touch()
    with open_run(options):
        assert not left.exists()


def test_the_seconds_of_earlier_processes_count(options):
    with open_run(options, time.monotonic() - 100):
        pass
    with open_run(options) as run:
        assert 100 <= run.seconds() < 200
    with open_run(options, time.monotonic() - 100) as run:
        assert 200 <= run.seconds() < 300


def test_a_kill_loses_few_of_a_runs_seconds(options, monkeypatch):
    monkeypatch.setattr(elapsed, "EVERY", 0.01)
    with open_run(options, time.monotonic() - 100) as run:
        path, ends = run.folder / elapsed.ELAPSED, time.monotonic() + 60
        while not path.exists() and time.monotonic() < ends:
            time.sleep(0.01)
        assert json.loads(path.read_text())["seconds"] >= 100


@pytest.mark.slow
def test_a_second_process_is_refused(options):
    program = (
        "from pathlib import Path\n"
        "from n2n_gym.runs.folder import open_run, resumed\n"
        f"with open_run(resumed(Path({str(options.output)!r}), {{}})): pass\n"
    )
    with open_run(options):
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
        )
    assert result.returncode == 1
    assert "BlockingIOError" in result.stderr
    assert "is in use by another process" in result.stderr
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_folder_that_cannot_be_written_is_named(options):
    nowhere = replace(options, output=Path("/proc/run"))  # root cannot either
    with pytest.raises(OSError, match="/proc/run"), open_run(nowhere):
        pass


def test_a_file_in_the_folders_place_is_named(options):
    options.output.write_text("")
    result = CliRunner().invoke(app, ["compress", "--output", str(options.output)])
    assert result.exit_code == 1
    assert str(options.output) in result.stderr.replace("\n", "")


# The history.


def test_lines_that_are_there_come_again_and_then_new_ones(tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path)
    fill(history, range(3))
    history.close()
    before = path.read_text()
    path.write_text(before + '{"search": "reinf')
    history = History(path)
    assert path.read_text() == before  # but for the line that was cut short
    fill(history, range(5))
    history.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["reward"] for line in lines] == [0, 0.1, 0.2, 0.3, 0.4]
    assert path.read_text().startswith(before)
    assert "action_mask" not in lines[0]


@pytest.mark.parametrize("line", ["{", "[]", '{"stage": "final"}', "null"])
def test_a_damaged_line_is_named_and_left(line, tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path)
    fill(history, range(3))
    history.close()
    first, _, third = path.read_text().splitlines()
    damaged = "\n".join([first, line, third, ""])
    path.write_text(damaged)
    for read in (History, read_history):
        with pytest.raises(ValueError, match=r"history\.jsonl, line 2 is damaged"):
            read(path)
    assert path.read_text() == damaged


def test_another_line_than_before_ends_the_run(tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path)
    fill(history, range(3))
    history.close()
    history = History(path)
    fill(history, [0])
    with pytest.raises(ValueError, match="line 2 differs from what"):
        fill(history, [2])
    history.close()
    assert len(path.read_text().splitlines()) == 3


def test_what_the_history_has_is_not_scored_again(tmp_path, teacher):
    class Counting(SizeEvaluator):
        asked = 0

        def __call__(self, students, teacher):
            self.asked += len(students)
            return super().__call__(students, teacher)

    whole = teacher.architecture
    path = tmp_path / "history.jsonl"
    history = History(path)
    of_whole = {**info(1), "fingerprint": whole.fingerprint}
    history.add("reinforce", "remove", 0.5, of_whole)
    failed = {"fingerprint": "another", "error": "it diverged"}
    history.add("reinforce", "remove", -1.0, failed)
    # What was distilled fully says nothing of the search's scores.
    history.add("uniform width", FINAL, 0.6, {**of_whole, "accuracy": 0.9})
    history.close()

    counting = Counting()
    history = History(path)
    history.close()
    remembering = Remembering(counting, history)
    (score,) = remembering([whole], teacher)
    assert score == Score(0.51, 101, 1_000, 0.4)
    assert counting.asked == 0
    assert history.result("another") == Failure("it diverged", retryable=False)
    assert remembering.score_teacher(teacher) == counting.score_teacher(teacher)


def test_a_student_that_failed_at_first_fails_again_and_then_has_its_score(tmp_path):
    path = tmp_path / "history.jsonl"
    failed = {"fingerprint": "student 1", "error": "a worker died"}

    def play(history: History) -> None:
        for number, said in ((0, info(0)), (1, failed), (1, info(1)), (2, info(2))):
            history.add("reinforce", "remove", number, said)

    history = History(path)
    play(history)
    history.close()
    before = path.read_text()
    history = History(path)
    assert history.result("student 1") == Failure("a worker died", retryable=False)
    history.add("reinforce", "remove", 0, info(0))
    history.add("reinforce", "remove", 1, failed)
    assert history.result("student 1") == Score(0.51, 101, 1_000, 0.4)
    history.add("reinforce", "remove", 1, info(1))
    assert history.result("student 1") == Score(0.51, 101, 1_000, 0.4)
    assert history.result("student 3") is None
    history.close()
    history = History(path)
    play(history)
    history.close()
    assert path.read_text() == before


def test_what_was_distilled_fully_may_come_out_otherwise(tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path)
    fill(history, [0])
    fill(history, [1])  # a control failed before: it has no line
    history.close()
    history = History(path)
    fill(history, [0])
    history.add("uniform width", FINAL, 0.6, info(9))
    assert history.result("student 1") == Score(0.51, 101, 1_000, 0.4)  # still known
    fill(history, [1])
    history.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["reward"] for line in lines] == [0, 0.6, 0.1]
    history = History(path)
    fill(history, [0, 1])  # and the other way round
    history.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["reward"] for line in lines] == [0, 0.1]


# Stopping.


def start(folder: Path, cache: Path) -> subprocess.Popen:
    arguments = ["--teacher", "tests.networks:make_small", "--evaluator", "inherit"]
    arguments += ["--removal-updates", "200", "--output", str(folder)]
    program = "from n2n_gym.cli import app; app()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "compress", *arguments],
        cwd=ROOT,
        env={**os.environ, "N2N_CACHE": str(cache), "COLUMNS": "200"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, tmp_path / "cache")
    history = folder / "history.jsonl"
    while process.poll() is None and not (history.exists() and history.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = len(history.read_text().splitlines())
    assert f"Stopped. {lines} students and their scores are kept" in errors
    assert f"n2n-gym compress --resume {folder}" in errors
    assert "Traceback" not in errors


def test_ctrl_c_before_a_run_began_does_not_offer_to_go_on(tmp_path, monkeypatch):
    def stopped(options, began):
        raise KeyboardInterrupt

    monkeypatch.setattr("n2n_gym.compression.pipeline.compress", stopped)
    output = tmp_path / "run"
    result = CliRunner().invoke(app, ["compress", "--output", str(output)])
    assert result.exit_code == 130
    assert "Stopped before the run began" in result.stderr
    assert "--resume" not in result.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    tmp_path, finished_run
):
    folder = tmp_path / "run"
    options = replace(Options.read(finished_run / "options.toml"), output=folder)
    given = tmp_path / "own.toml"
    given.write_text(options.to_toml())
    program = (
        "import resource, sys\n"
        "from n2n_gym.cli import app\n"
        "limit = int(sys.argv.pop(1))\n"  # bytes that a file may grow to
        "if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "app()\n"
    )

    def compress(limit: int) -> subprocess.CompletedProcess:
        return subprocess.run(
            [
                *(sys.executable, "-c", program, str(limit)),
                *("compress", "--config", str(given), "--json"),
            ],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "300"},
            capture_output=True,
            text=True,
        )

    result = compress(30_000)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    result = compress(0)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    before = json.loads((finished_run / "summary.json").read_text())
    assert found["num_scored"] == before["num_scored"]
    lines = (folder / "history.jsonl").read_text().splitlines()
    wanted = (finished_run / "history.jsonl").read_text().splitlines()
    searched = [line for line in lines if json.loads(line)["stage"] != FINAL]
    assert searched == [x for x in wanted if json.loads(x)["stage"] != FINAL]


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_the_table_fits_its_terminal(finished_run, columns):
    arguments = ["compress", "--resume", str(finished_run)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    table = result.stdout.split("student.onnx")[0]
    assert max(len(line) for line in table.splitlines() if "%" in line) <= columns
    assert "uniform width" in table
    assert "…" not in table
