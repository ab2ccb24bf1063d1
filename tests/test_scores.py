"""The store of scores: what it promises to processes, to runs, and of damaged files."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import (
    UNKNOWN,
    Entry,
    Key,
    Merged,
    Provenance,
    ScoreStore,
    canonical,
    read_scores,
    write_scores,
)
from n2n_gym.scores.entry import COLUMNS, as_row

ROOT = Path(__file__).parent.parent
SETTINGS = canonical({"device": "cpu", "precision": "float32", "threads": 1})
SCORE = Score(0.1 + 0.2, 1_000, 2**40, 2.5)
DIVERGED = Failure('diverged, twice:\r\n"loss is nan", at 0.1', retryable=False)
NAMES = {"teacher_name": "resnet18", "task_name": "digits"}
SUFFIXES = (".csv", ".jsonl", ".parquet")
# What child processes start with: the same keys from the same numbers.
PRELUDE = """
import sys
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import Key, ScoreStore
def key(i):
    return Key(f"{i:064x}", "f" * 64, "d" * 64, "validation", "short", "{}", 1)
def put(store, i, accuracy=0.5):
    names = {"teacher_name": "resnet18", "task_name": "digits"}
    store.put(key(i), Score(accuracy, 10, 20, 2.0), **names, seconds=1.0)
store = ScoreStore(sys.argv[1])
"""


def key(number: int, rung: str = "short", settings: str = "{}") -> Key:
    fingerprint = f"{number:064x}"
    return Key(fingerprint, "f" * 64, "d" * 64, "validation", rung, settings, 1)


def put(store: ScoreStore, key: Key, result: Score | Failure = SCORE, **about) -> None:
    store.put(key, result, **{**NAMES, "seconds": 1.5, **about})


def start(program: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", PRELUDE + program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def run(program: str, *arguments: object) -> str:
    process = start(program, *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output


def ask(path: Path, question: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(question).fetchall()


def fill(path: Path, count: int = 400) -> None:
    with ScoreStore(path) as store:
        entries = (
            Entry(key(i), SCORE, *NAMES.values(), 1.5, "2025-01-01T00:00:00+00:00")
            for i in range(count)
        )
        assert store.merge(entries).added == count


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[ScoreStore]:
    with ScoreStore(path) as store:
        yield store


# Keys


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "0" * 64},
        {"teacher": "0" * 64},
        {"task": "0" * 64},
        {"split": "test"},
        {"rung": "full"},
        {"settings": canonical({"device": "cuda"})},
        {"version": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_a_key_changes_its_digest_and_hides_the_score(store, change):
    known = key(1)
    put(store, known)
    other = replace(known, **change)
    assert other.digest != known.digest
    assert store.get([other]) == {}


@pytest.mark.parametrize("settings", ['{"b": 1}', '{"b":1,"a":2}', "{", '{"a":NaN}'])
def test_settings_spelt_in_another_way_are_refused(settings):
    with pytest.raises(ValueError, match="settings must be"):
        key(1, settings=settings)


# Putting and getting


def test_what_was_put_is_got_to_the_last_bit(store, path):
    put(store, key(1, settings=SETTINGS), SCORE)
    put(store, key(2), DIVERGED)
    expected = {key(1, settings=SETTINGS).digest: SCORE, key(2).digest: DIVERGED}
    wanted = [key(1, settings=SETTINGS), key(2), key(3), key(2)]
    assert store.get(wanted) == expected
    assert store.get([]) == {}
    with ScoreStore(f"sqlite:///{path}") as again:
        assert again.get(wanted) == expected


def test_more_keys_than_a_query_takes_are_found(path):
    fill(path, 1_234)
    with ScoreStore(path) as store:
        assert len(store.get([key(i) for i in range(2_000)])) == 1_234


def test_the_first_result_stays(store):
    put(store, key(1), SCORE)
    put(store, key(1), SCORE._replace(accuracy=0.9))
    put(store, key(1), DIVERGED)
    assert store.get([key(1)]) == {key(1).digest: SCORE}
    assert store.count() == 1
    assert store.trouble is None


@pytest.mark.parametrize(
    "result",
    [
        SCORE._replace(accuracy=float("nan")),
        SCORE._replace(accuracy=1.0001),
        SCORE._replace(accuracy=-0.1),
        SCORE._replace(num_params=-1),
        SCORE._replace(num_macs=2**63),
        SCORE._replace(cost=float("inf")),
        Failure("out of memory", retryable=True),
    ],
)
def test_a_result_that_cannot_be_or_may_not_last_is_refused(store, result):
    with pytest.raises(ValueError, match=r"must be|cannot be stored"):
        put(store, key(1), result)
    assert store.count() == 0


def test_a_text_that_databases_refuse_is_kept_without_what_they_refuse(store):
    put(store, key(1), Failure("a\0b \udcff", retryable=False), task_name="\udcff")
    assert store.get([key(1)]) == {key(1).digest: Failure("ab ?", retryable=False)}
    assert next(store.rows()).task_name == "?"


def test_a_row_of_other_settings_is_named_not_served_and_then_replaced(
    store, path, caplog
):
    put(store, key(1))
    ask(path, 'UPDATE scores SET settings = \'{"device":"cuda"}\'')
    for _ in range(2):
        assert store.get([key(1)]) == {}
    assert list(store.rows()) == []
    (warning,) = caplog.messages
    assert key(1).digest in warning
    assert str(path) in warning
    better = SCORE._replace(accuracy=0.7)
    put(store, key(1), better)
    assert store.get([key(1)]) == {key(1).digest: better}


def test_nothing_is_opened_before_the_first_use(tmp_path):
    path = tmp_path / "deep" / "scores.sqlite"
    with ScoreStore(path) as store:
        assert list(store.rows()) == []
        assert store.count() == 0
        assert not path.parent.exists()
        assert store.get([key(1)]) == {}
        assert path.exists()


def test_the_default_is_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    with ScoreStore() as store:
        put(store, key(1))
    assert (tmp_path / "scores.sqlite").exists()


def test_a_relative_path_does_not_follow_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ScoreStore("here.sqlite") as one, ScoreStore("sqlite:///here.sqlite") as two:
        monkeypatch.chdir(ROOT)
        put(one, key(1))
        assert two.get([key(1)])
    assert (tmp_path / "here.sqlite").exists()


def test_a_store_in_memory_lasts_as_long_as_itself():
    with ScoreStore("sqlite://") as store:
        put(store, key(1))
        assert store.get([key(1)])


# Rows


def test_rows_come_by_teacher_task_and_rung_with_the_best_first(store):
    put(store, key(1, "short"), SCORE._replace(accuracy=0.2))
    put(store, key(2, "short"), DIVERGED)
    put(store, key(3, "short"), SCORE._replace(accuracy=0.4))
    put(store, key(4, "full"), SCORE)
    put(store, key(5), teacher_name="alexnet")
    put(store, key(6), task_name="cifar10")

    def numbers(**where: object) -> list[int]:
        return [int(entry.key.fingerprint, 16) for entry in store.rows(**where)]

    assert numbers() == [5, 6, 4, 3, 1, 2]
    assert numbers(newest_first=True, limit=2) == [6, 5]
    assert numbers(task_name="digits", rung="short") == [5, 3, 1, 2]
    assert numbers(teacher_name="alexnet") == [5]
    assert numbers(fingerprint=f"{3:064x}"[:64]) == [3]
    assert numbers(fingerprint="%") == []
    assert store.count_by(["rung"]) == {("full",): 1, ("short",): 5}
    assert store.count_by(["rung"], task_name="cifar10") == {("short",): 1}


def test_rows_can_be_left_half_way(path):
    fill(path)
    with ScoreStore(path) as store:
        rows = store.rows()
        assert next(rows).key == next(store.rows()).key
        put(store, key(-1))  # readers keep nobody from writing
        rows.close()


# Merging


def test_merging_adds_what_is_missing_and_keeps_what_differs(path, tmp_path):
    with ScoreStore(path) as ours, ScoreStore(tmp_path / "theirs.sqlite") as theirs:
        for number in range(4):
            put(theirs, key(number))
        put(ours, key(0), SCORE._replace(accuracy=0.9))
        put(ours, key(1))
        put(ours, key(2), DIVERGED)
        put(ours, key(7))
        # Another cost, or time, is no other accuracy.
        assert ours.merge(theirs) == Merged(added=1, known=1, different=2)
        assert ours.merge(theirs) == Merged(added=0, known=2, different=2)
        assert ours.count() == 5
        assert ours.get([key(0)])[key(0).digest].accuracy == 0.9
        moved = {entry.key.digest: entry for entry in ours}[key(3).digest]
        assert moved in list(theirs)  # with its names and times


def test_more_rows_than_a_batch_are_merged(path, tmp_path):
    fill(path, 1_234)
    with ScoreStore(path) as theirs, ScoreStore(tmp_path / "ours.sqlite") as ours:
        put(ours, key(600))
        assert ours.merge(theirs) == Merged(1_233, 1, 0)


# Processes


def test_no_row_is_lost_or_doubled_by_eight_processes(path):
    # Each writes 60 of its own and 60 that all write.
    program = """
me = int(sys.argv[2])
for i in range(60):
    put(store, i, accuracy=me / 10)
    put(store, 1000 * (me + 1) + i)
assert store.trouble is None
assert len(store.get([key(1000 * (me + 1) + i) for i in range(60)])) == 60
"""
    processes = [start(program, path, number) for number in range(8)]
    assert [process.wait(60) for process in processes] == [0] * 8
    for process in processes:
        process.stdout.close()
    assert ask(path, "SELECT count(*), count(DISTINCT key) FROM scores") == [(540, 540)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


def test_what_was_put_survives_the_killing_of_its_process(path):
    program = """
for i in range(int(sys.argv[2]), 10**9):
    put(store, i)
    print(key(i).digest, flush=True)
"""
    said = set()
    for round_number in range(10):
        process = start(program, path, 10**6 * round_number)
        for _ in range(1 + 17 * round_number):
            said.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        said.update(line for line in rest.splitlines() if len(line) == 64)
    assert len(said) >= 10 + 17 * 45
    with ScoreStore(path) as store:
        assert said <= {entry.key.digest for entry in store}
    assert ask(path, "PRAGMA quick_check") == [("ok",)]


def test_a_pickled_store_is_the_same_store(store):
    put(store, key(1))
    with pickle.loads(pickle.dumps(store)) as again:
        assert again.get([key(1)]) == store.get([key(1)])


def test_a_forked_process_uses_the_store_and_so_does_its_parent(path):
    program = """
import os
put(store, 1)
child = os.fork()
put(store, 2 if child else 3)
assert store.get([key(1)])
if not child:
    sys.exit(0 if store.trouble is None else 1)
assert os.waitpid(child, 0)[1] == 0
put(store, 4)
print(store.count())
"""
    assert run(program, path) == "4\n"


# Damage


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def half_of_it(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def a_few_bytes(path: Path) -> None:
    os.truncate(path, 50)


def holes(path: Path) -> None:
    """All but the first pages are overwritten."""
    with open(path, "r+b") as file:
        file.seek(2 * 4096)
        file.write(os.urandom(path.stat().st_size - 2 * 4096))


DAMAGES = (garbage, half_of_it, a_few_bytes, holes)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_a_new_one_started(path, damage, caplog):
    fill(path)
    damage(path)
    with ScoreStore(path) as store:
        assert len(store.get([key(i) for i in range(400)])) == 0
        put(store, key(1))
        assert store.get([key(1)]) == {key(1).digest: SCORE}
        assert store.trouble is None
    (aside,) = path.parent.glob("scores.sqlite.damaged-*[0-9]")
    (warning,) = caplog.messages
    assert str(path) in warning
    assert str(aside) in warning
    assert aside.stat().st_size > 0


def test_files_that_are_no_store_are_left_alone(path, tmp_path, caplog):
    table = tmp_path / "results.csv"
    table.write_text("student,accuracy\n" * 100)
    fill(path)
    ask(path, "ALTER TABLE scores RENAME COLUMN rung TO level")
    for file, why in ((table, "not a score store"), (path, "level, rung")):
        before = file.read_bytes()
        with ScoreStore(file) as store:
            assert store.get([key(1)]) == {}
            put(store, key(1))
            assert why in store.trouble
            assert why in caplog.messages[-1]
            with pytest.raises(OSError, match=why):
                store.count()
        assert file.read_bytes() == before
    assert not list(tmp_path.glob("*damaged*"))


def test_damage_found_while_the_store_is_open_is_set_aside(path, caplog):
    fill(path, 2_000)
    with ScoreStore(path) as store:
        assert store.get([key(1)])
        holes(path)
        for number in range(2_000, 2_010):
            put(store, key(number))
        store.get([key(i) for i in range(2_000)])
        put(store, key(5_000))
        assert store.get([key(5_000)])
    assert len(list(path.parent.glob("scores.sqlite.damaged-*[0-9]"))) == 1
    assert len(caplog.messages) == 1


def test_rows_of_a_damaged_file_end_in_an_error_not_early(path):
    fill(path)
    holes(path)
    with ScoreStore(path) as store:
        with pytest.raises(OSError, match=r"is damaged .* renamed to .*damaged-"):
            list(store.rows())
        assert list(store.rows()) == []


def test_the_log_of_a_damaged_file_goes_with_it(path):
    fill(path)
    run("put(store, 1_000); import os; os._exit(0)", path)
    log = path.with_name("scores.sqlite-wal")
    assert log.stat().st_size > 0
    garbage(path)
    with ScoreStore(path) as store:
        put(store, key(1))
        assert store.count() == 1
    (aside,) = path.parent.glob("scores.sqlite.damaged-*[0-9]")
    assert aside.with_name(f"{aside.name}-wal").stat().st_size > 0


def test_processes_that_find_the_same_damage_lose_nothing_to_each_other(path):
    garbage(path)
    program = "put(store, int(sys.argv[2])); assert store.trouble is None"
    processes = [start(program, path, number) for number in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    for process in processes:
        process.stdout.close()
    assert len(list(path.parent.glob("scores.sqlite.damaged-*[0-9]"))) == 1
    with ScoreStore(path) as store:
        assert store.count() == 4


@pytest.mark.parametrize("moved", ["renamed", "deleted"])
def test_a_file_that_others_moved_is_started_anew(path, store, moved):
    put(store, key(1))
    if moved == "renamed":
        path.rename(path.with_name("elsewhere.sqlite"))
    else:
        path.unlink()
    put(store, key(2))
    assert store.get([key(1), key(2)]) == {key(2).digest: SCORE}
    assert ask(path, "SELECT count(*) FROM scores") == [(1,)]


# Databases out of reach


def goes_on_without(store: ScoreStore, caplog) -> str:
    """The one warning of a store that cannot keep scores."""
    for number in range(3):
        put(store, key(number))
    assert store.get([key(0)]) == {}
    (warning,) = caplog.messages
    assert store.trouble is not None
    assert store.trouble in warning
    assert str(store) in warning
    return warning


def test_a_folder_that_cannot_be_made_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / "file").touch()
    with ScoreStore(tmp_path / "file" / "scores.sqlite") as store:
        goes_on_without(store, caplog)
        with ScoreStore("sqlite://") as other:
            put(other, key(1))
            with pytest.raises(OSError, match="file"):
                store.merge(other)  # somebody asked for just that


def test_a_full_disk_does_not_end_the_run_and_loses_no_row(path, caplog):
    fill(path, 100)

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # no more than it has

    event.listen(Engine, "connect", limit)
    try:
        with ScoreStore(path) as store:
            for number in range(200):
                put(store, key(1_000 + number))
            assert "full" in str(store.trouble)
            assert len(store.get([key(i) for i in range(100)])) == 100
    finally:
        event.remove(Engine, "connect", limit)
    warning, lost = caplog.messages
    assert "full" in warning
    assert str(path) in warning
    assert "scores are lost" in lost
    assert ask(path, "PRAGMA quick_check") == [("ok",)]


def test_a_file_that_may_grow_no_more_does_not_end_the_run(path):
    program = """
import resource
put(store, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for i in range(1, 300):
    put(store, i)
print(store.trouble)
"""
    assert str(path) in run(program, path)
    with ScoreStore(path) as store:
        assert store.get([key(0)])
        assert store.trouble is None
    assert ask(path, "PRAGMA quick_check") == [("ok",)]


def test_a_store_to_read_alone_is_read_and_says_that_nothing_is_kept(path, caplog):
    fill(path, 3)
    with ScoreStore(f"sqlite:///{path.as_uri()}?mode=ro&uri=true") as store:
        put(store, key(7))
        put(store, key(8))
        assert len(store.get([key(i) for i in range(9)])) == 3
        assert "readonly" in str(store.trouble)
    _, lost = caplog.messages
    assert "2 scores are lost" in lost


def test_a_store_to_read_alone_is_not_renamed(path, caplog):
    garbage(path)
    with ScoreStore(f"sqlite:///{path.as_uri()}?mode=ro&uri=true") as store:
        assert store.get([key(1)]) == {}
        with pytest.raises(OSError, match="is damaged"):
            list(store)
    assert path.exists()


def test_a_lock_that_others_hold_too_long_does_not_end_the_run(path, monkeypatch):
    fill(path, 3)
    monkeypatch.setattr("n2n_gym.scores.addresses.PATIENCE", 0.1)
    with ScoreStore(path) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        put(store, key(7))
        assert "locked" in str(store.trouble)
        assert store.get([key(1)])
        other.rollback()
        monkeypatch.setitem(store._troubles, "kept", ("locked", 0.0))
        put(store, key(7))  # after the pause it is tried again
        assert store.trouble is None
        assert store.get([key(7)])


def test_what_could_not_be_written_is_when_it_can(path, monkeypatch, caplog):
    monkeypatch.setattr("n2n_gym.scores.addresses.PATIENCE", 0.1)
    with ScoreStore(path) as store, closing(sqlite3.connect(path)) as other:
        put(store, key(1))
        other.execute("BEGIN IMMEDIATE")
        for i in (2, 3):
            put(store, key(i))
        other.rollback()
        monkeypatch.setitem(store._troubles, "kept", ("locked", 0.0))
        put(store, key(4))
        assert store.count() == 4
        other.execute("BEGIN IMMEDIATE")
        put(store, key(5))
        other.rollback()
        # Closing does not wait for the pause to end.
    with ScoreStore(path) as store, closing(sqlite3.connect(path)) as other:
        assert store.count() == 5
        other.execute("BEGIN IMMEDIATE")
        put(store, key(6))
        store.close()
        assert "1 scores are lost" in caplog.text


@pytest.mark.parametrize(
    "url", ["://", "postgresql://me:secret@host:port/x", "a:b://me:secret@host"]
)
def test_a_malformed_address_is_refused_without_its_password(url):
    with pytest.raises(ValueError, match="address of a database") as caught:
        ScoreStore(url)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r'pip install "psycopg\[binary\]"') as caught:
        ScoreStore("postgresql+psycopg://me:secret@host/scores")
    assert "postgresql+psycopg://me:***@host/scores" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unknown_kind_of_database_is_named():
    with pytest.raises(ValueError, match="unknown kind of database, 'notsql'"):
        ScoreStore("notsql://me:secret@host/scores")


@pytest.mark.skipif(
    "N2N_TEST_DATABASE" not in os.environ, reason="needs a server's URL"
)
def test_a_server_keeps_what_a_file_keeps(path, caplog):
    fill(path, 1_234)
    with ScoreStore(os.environ["N2N_TEST_DATABASE"]) as store:
        put(store, key(1), SCORE)
        put(store, key(1), DIVERGED)
        put(store, key(-1), DIVERGED)
        assert store.merge(ScoreStore(path)) == Merged(1_233, 1, 0)
        assert store.get([key(1), key(-1)]) == {
            key(1).digest: SCORE,
            key(-1).digest: DIVERGED,
        }
        assert store.count() == 1_235
        assert [entry.result for entry in store][-1] == DIVERGED
    assert caplog.messages == []


# Files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exported_rows_are_the_same_when_read_back(store, tmp_path, suffix):
    put(store, key(1, settings=SETTINGS), SCORE, teacher_name='own, "net"')
    put(store, key(2), DIVERGED)
    put(store, key(3), Failure("", retryable=False))
    file = tmp_path / f"scores{suffix}"
    assert write_scores(file, store) == 3
    assert list(read_scores(file)) == list(store)
    with ScoreStore(tmp_path / "new.sqlite") as new:
        assert new.merge(read_scores(file)) == Merged(3, 0, 0)
        assert list(new) == list(store)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_of_nothing_can_be_read(tmp_path, suffix):
    file = tmp_path / f"scores{suffix}"
    assert write_scores(file, []) == 0
    assert list(read_scores(file)) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_that_fails_leaves_what_was_there(store, tmp_path, suffix):
    file = tmp_path / f"scores{suffix}"
    put(store, key(1))
    write_scores(file, store)
    before = file.read_bytes()

    def broken() -> Iterator[Entry]:
        yield from store
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_scores(file, broken())
    assert file.read_bytes() == before
    assert len(list(tmp_path.glob("scores.*.part"))) == 0


CHANGES = {
    "accuracy": 0.9999999,
    "num_params": "many",
    "version": 2,
    "settings": '{"device": "cpu"}',
    "cost": None,
    "error": "too",
    "seconds": float("nan"),
    "created": "2025-01-01T00:00:00",
    "num_macs": 2**70,
    "task_name": None,
    "key": "0" * 64,
}


@pytest.mark.parametrize("change", CHANGES.items(), ids=lambda change: change[0])
def test_a_row_that_was_changed_is_refused_with_file_and_row(store, tmp_path, change):
    put(store, key(1))
    put(store, key(2))
    file = tmp_path / "scores.jsonl"
    write_scores(file, store)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    name, value = change
    rows[1][name] = 1.5 if name == "accuracy" else value
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"scores\.jsonl, row 2: "):
        list(read_scores(file))


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".jsonl", b"[1]\n"),
        (".jsonl", b"{}\n"),
        (".jsonl", b"\xff\n"),
        (".jsonl", b"[" * 100_000),
        (".csv", b"key,rung\n1,2\n"),
        (".csv", b"key\n1,2,3\n"),
        (".csv", b'"\n'),
        (".csv", b"\xff\xfe\n1\n"),
        (".parquet", b"PAR1 and no more"),
        (".parquet", b""),
    ],
)
def test_a_file_of_another_content_is_refused(tmp_path, suffix, content):
    file = tmp_path / f"scores{suffix}"
    file.write_bytes(content)
    if content == b'"\n':
        file.write_bytes(b'key\n"1\n')
    with pytest.raises(ValueError, match=rf"scores\{suffix}, row 1: "):
        list(read_scores(file))


def test_another_suffix_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"\.csv, \.jsonl, \.parquet"):
        write_scores(tmp_path / "scores.xlsx", [])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r'pip install "n2n-gym\[parquet\]"'):
        write_scores(tmp_path / "scores.parquet", [])
    assert list(tmp_path.iterdir()) == []


# Where scores came from

HERE = Provenance("2.14", "x86_64 AVX512")
ELSEWHERE = [
    Provenance("2.13", "x86_64 AVX512"),
    Provenance("2.14", "x86_64 AVX2"),
    Provenance("2.14", "aarch64 SVE256"),
    Provenance("2.14", "sm_90"),
]
# The table as it was before provenance was kept.
OLD_TABLE = """CREATE TABLE scores (
    key VARCHAR(64) NOT NULL PRIMARY KEY, fingerprint TEXT NOT NULL,
    teacher TEXT NOT NULL, teacher_name TEXT NOT NULL, task TEXT NOT NULL,
    task_name TEXT NOT NULL, split TEXT NOT NULL, rung TEXT NOT NULL,
    settings TEXT NOT NULL, version BIGINT NOT NULL, accuracy DOUBLE,
    num_params BIGINT, num_macs BIGINT, cost DOUBLE, error TEXT,
    seconds DOUBLE NOT NULL, created TEXT NOT NULL)"""
OLD_COLUMNS = [name for name in COLUMNS if name not in Provenance._fields]


def old_rows(count: int) -> list[dict]:
    created = "2025-01-01T00:00:00+00:00"
    rows = [
        as_row(Entry(key(i), SCORE, *NAMES.values(), 1.5, created))
        for i in range(count)
    ]
    return [{name: row[name] for name in OLD_COLUMNS} for row in rows]


def make_old(path: Path, count: int = 3) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(OLD_TABLE)
        for row in old_rows(count):
            placeholders = ", ".join(f":{name}" for name in row)
            question = f"INSERT INTO scores ({', '.join(row)}) VALUES ({placeholders})"
            connection.execute(question, row)


@pytest.mark.parametrize("where", [HERE, *ELSEWHERE, UNKNOWN])
@pytest.mark.parametrize("result", [SCORE, DIVERGED], ids=["score", "failure"])
def test_where_a_score_came_from_is_kept(where, result, store, tmp_path):
    put(store, key(1), result, provenance=where)
    assert [entry.provenance for entry in store] == [where]
    for suffix in SUFFIXES:
        write_scores(tmp_path / f"scores{suffix}", store)
        read = read_scores(tmp_path / f"scores{suffix}")
        assert [entry.provenance for entry in read] == [where]


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_score_of_another_machine_is_found_and_the_mixture_is_said_once(
    where, store, path, caplog
):
    put(store, key(1), provenance=where)
    with ScoreStore(path) as other:
        put(other, key(2), provenance=HERE)
        assert not caplog.text
        assert other.get([key(1)]) == {key(1).digest: SCORE}
        said = sorted(map(str, (HERE, where)))
        assert f"scores of {said[0]} and of {said[1]} are mixed" in caplog.text
        caplog.clear()
        other.get([key(1)])
        assert not caplog.text


def test_a_merge_of_two_kinds_of_machines_says_so(store, tmp_path, caplog):
    put(store, key(1), provenance=HERE)
    with ScoreStore(tmp_path / "theirs.sqlite") as theirs:
        put(theirs, key(2), provenance=ELSEWHERE[0])
        caplog.clear()
        store.merge(theirs)
    assert "are mixed" in caplog.text


def test_scores_of_one_machine_or_of_nobody_knows_which_are_no_mixture(store, caplog):
    put(store, key(1), provenance=HERE)
    put(store, key(2), provenance=HERE)
    put(store, key(3))
    store.get([key(1), key(2), key(3)])
    assert not caplog.text


def test_an_old_store_is_read_and_written_with_nothing_lost(path):
    make_old(path)
    with ScoreStore(path) as store:
        assert store.get([key(0)]) == {key(0).digest: SCORE}
        put(store, key(7), provenance=HERE)
        assert store.machines() == {UNKNOWN: 3, HERE: 1}
    with ScoreStore(path) as again:
        assert again.count() == 4


def test_an_old_store_that_may_only_be_read_stays_as_it_is(path):
    make_old(path)
    before = path.read_bytes()
    with ScoreStore(f"sqlite:///{path.as_uri()}?mode=ro&uri=true") as store:
        assert store.get([key(0)]) == {key(0).digest: SCORE}
        assert [entry.provenance for entry in store] == [UNKNOWN] * 3
        assert store.count_by(["rung"]) == {("short",): 3}
        assert store.machines() == {UNKNOWN: 3}
    assert path.read_bytes() == before


def test_two_processes_may_open_an_old_store_at_once(path):
    make_old(path, 200)
    program = "put(store, int(sys.argv[2])); print(store.count() > 200)"
    processes = [start(program, path, 1_000 + number) for number in range(4)]
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert answers == ["True\n"] * 4
    with ScoreStore(path) as store:
        assert store.count() == 204


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_old_files_are_read(suffix, tmp_path):
    path, rows = tmp_path / f"scores{suffix}", old_rows(3)
    if suffix == ".csv":
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, OLD_COLUMNS)
            table.writeheader()
            table.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pa.Table.from_pylist(rows), path
        )
    read = list(read_scores(path))
    assert [entry.key for entry in read] == [key(i) for i in range(3)]
    assert {entry.provenance for entry in read} == {UNKNOWN}


def test_a_csv_row_that_is_cut_off_is_refused_still(tmp_path):
    path = tmp_path / "scores.csv"
    created = "2025-01-01T00:00:00+00:00"
    entry = Entry(key(1), SCORE, *NAMES.values(), 1.5, created, HERE)
    write_scores(path, [entry])
    whole = path.read_text()
    for cells in range(1, len(COLUMNS)):
        path.write_text(whole.rsplit(",", cells)[0])
        with pytest.raises(ValueError, match="row 1"):
            list(read_scores(path))
