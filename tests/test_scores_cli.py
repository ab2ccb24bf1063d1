"""The commands for the store of scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from n2n_gym.cli import app
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import UNKNOWN, Key, Provenance, ScoreStore, read_scores


def run(*arguments: object) -> Result:
    environment = {"COLUMNS": "90"}
    return CliRunner().invoke(app, ["scores", *map(str, arguments)], env=environment)


def put(
    path: Path,
    number: int,
    accuracy: float = 0.875,
    provenance: Provenance = UNKNOWN,
    **about: str,
) -> Key:
    key = Key(f"{number:064x}", "f" * 64, "d" * 64, "validation", "short", "{}", 1)
    names = {"teacher_name": "resnet18", "task_name": "digits", **about}
    with ScoreStore(path) as store:
        score = Score(accuracy, 12_345, 67_890, 2.0)
        store.put(key, score, **names, seconds=1.5, provenance=provenance)
    return key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite"


def test_the_newest_are_listed_with_what_was_measured(path):
    for number in range(3):
        put(path, number << 208)
    result = run("--store", path, "--limit", 2)
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "resnet18" in line]
    assert [line.split()[-1] for line in lines] == ["000000000002", "000000000001"]
    for figure in ("digits", "short", "87.50%", "12,345", "2"):
        assert figure in lines[0].split()
    assert result.stdout.splitlines()[-1] == f"3 scores in {path} (short: 3)"


def test_a_listing_can_be_of_some(path):
    put(path, 1)
    put(path, 2, teacher_name="alexnet")
    put(path, 3, task_name="[cifar10]")
    assert "1 scores in" in run("--store", path, "--teacher", "alexnet").stdout
    assert "[cifar10]" in run("--store", path, "--task", "[cifar10]").stdout
    assert "0 scores in" in run("--store", path, "--rung", "full").stdout
    assert "3 scores in" in run("--store", path, "--fingerprint", "000").stdout


def test_a_failure_is_listed_with_its_reason(path):
    key = put(path, 1)
    failed = Key("ab" * 32, *list(vars(key).values())[1:7])
    with ScoreStore(path) as store:
        reason = Failure("diverged [at 3]", retryable=False)
        store.put(failed, reason, teacher_name="x", task_name="y", seconds=0)
    assert "abababababab failed: diverged [at 3]\n" in run("--store", path).stdout


def test_the_default_store_may_not_be_there_and_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    result = run()
    assert result.exit_code == 0
    assert result.stdout == f"0 scores in {tmp_path / 'scores.sqlite'}\n"
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_of_what_was_asked_for(path, tmp_path):
    key = put(path, 1)
    put(path, 2, task_name="mnist")
    file = tmp_path / "some.csv"
    result = run("export", file, "--store", path, "--task", "digits")
    assert result.stdout == f"1 scores written to {file}\n"
    assert [entry.key for entry in read_scores(file)] == [key]


def test_stores_and_files_are_merged_and_counted(path, tmp_path):
    file, other = tmp_path / "theirs.jsonl", tmp_path / "theirs.sqlite"
    put(other, 1)
    put(other, 2)
    run("export", file, "--store", other)
    put(other, 3)
    put(path, 1, accuracy=0.5)
    before = other.read_bytes()
    result = run("merge", file, other, "--store", path)
    kept = "here with another accuracy, which stays"
    assert result.stdout.splitlines() == [
        f"{file}: 1 added, 0 here already, 1 {kept}",
        f"{other}: 1 added, 1 here already, 1 {kept}",
    ]
    assert other.read_bytes() == before
    with ScoreStore(path) as store:
        assert store.count() == 3


def test_machines_read_documents(path, tmp_path):
    key, file = put(path, 1), tmp_path / "some.csv"
    listed = json.loads(run("--store", path, "--json").stdout)
    assert (listed["store"], listed["counts"]) == (str(path), {"short": 1})
    (row,) = listed["newest"]
    assert (row["fingerprint"], row["accuracy"]) == (key.fingerprint, 0.875)
    written = run("export", file, "--store", path, "--json")
    machines = [{"torch": None, "instructions": None, "count": 1}]
    assert listed["machines"] == machines
    expected = {"path": str(file), "count": 1, "machines": machines}
    assert json.loads(written.stdout) == expected
    merged = run("merge", file, "--store", path, "--json")
    expected = {str(file): {"added": 0, "known": 1, "different": 0}}
    assert json.loads(merged.stdout) == expected


@pytest.mark.parametrize("command", [(), ("export", "out.csv")])
def test_reading_changes_no_file(path, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damaged, table = tmp_path / "damaged.sqlite", tmp_path / "results.csv"
    damaged.write_bytes(b"no database at all" * 100)
    table.write_text("student,accuracy\n" * 100)
    put(path, 1)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    for file, code in ((damaged, 1), (table, 1), (path, 0)):
        result = run(*command, "--store", file)
        assert result.exit_code == code
        assert code == 0 or str(file) in result.stderr
    assert all((tmp_path / name).read_bytes() == then for name, then in before.items())
    assert not list(tmp_path.glob("*damaged-*"))


def test_merging_a_damaged_store_says_so_and_leaves_it(path, tmp_path):
    other = tmp_path / "theirs.sqlite"
    other.write_bytes(b"no database at all" * 100)
    result = run("merge", other, "--store", path)
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    assert other.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "scores.xlsx"), ".csv, .jsonl, .parquet"),
        (("merge", "missing.sqlite"), "there is no file missing.sqlite"),
        (("merge", "missing.csv"), "missing.csv"),
        (("--store", "notsql://host/x"), "unknown kind of database"),
        (("--store", "x.sqlite", "export", "x.csv"), "go after 'export'"),
    ],
)
def test_what_the_user_can_mend_is_said_in_a_line(path, arguments, said, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(path.parent))
    result = run(*arguments)
    assert result.exit_code > 0
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "slow"),
    [
        (["--help"], {"torch", "sqlalchemy"}),
        (["scores", "--help"], {"torch", "sqlalchemy"}),
        (["scores"], {"torch"}),
    ],
)
def test_what_is_slow_to_import_waits_until_it_is_needed(
    arguments, slow, tmp_path, monkeypatch
):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    program = (
        "import sys\n"
        "from n2n_gym.cli import app\n"
        f"app({arguments}, standalone_mode=False)\n"
        f"assert not {slow} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("machines", "said"),
    [
        ([UNKNOWN, UNKNOWN], None),
        ([Provenance("2.14", "x86_64 AVX2")] * 2, None),
        (
            [Provenance("2.14", "x86_64 AVX2"), Provenance("2.14", "x86_64 AVX512")],
            "2 kinds of machine: 1 of torch 2.14 on x86_64 AVX2; "
            "1 of torch 2.14 on x86_64 AVX512",
        ),
        (
            [UNKNOWN, Provenance("2.13", "aarch64 SVE256")],
            "2 kinds of machine: 1 of an unknown kind; "
            "1 of torch 2.13 on aarch64 SVE256",
        ),
        (
            [UNKNOWN, Provenance("2.14", "sm_90"), Provenance("2.13", "sm_90")],
            "3 kinds of machine: 1 of an unknown kind; 1 of torch 2.13 on sm_90; "
            "1 of torch 2.14 on sm_90",
        ),
    ],
)
def test_scores_of_several_kinds_of_machine_are_said_to_be(
    machines, said, path, tmp_path
):
    for number, machine in enumerate(machines):
        put(path, number, provenance=machine)
    merged = tmp_path / "merged.sqlite"
    for result in (
        run("--store", path),
        run("export", tmp_path / "all.csv", "--store", path),
        run("merge", path, "--store", merged),
        run("merge", tmp_path / "all.csv", "--store", tmp_path / "third.sqlite"),
    ):
        assert result.exit_code == 0
        output = " ".join(result.stdout.split())
        if said is None:
            assert "of machine" not in output
        else:
            kinds, each = said.split(": ")
            assert f"scores of {kinds}: " in output
            assert set(output.split(f"{kinds}: ")[1].split("; ")) == set(
                each.split("; ")
            )
