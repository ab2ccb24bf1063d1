"""The table of scores in its database: opened late, mended where that is possible."""

from __future__ import annotations

import logging
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    FromClause,
    MetaData,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    cast,
    inspect,
    null,
    select,
)
from sqlalchemy import text as sql
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from n2n_gym.scores.addresses import PATIENCE, make_engine, sqlite_path
from n2n_gym.scores.entry import ADDED, COLUMNS, OPTIONAL

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TYPES: Final = {str: Text, int: BigInteger, float: Double}
SCORES: Final = Table(
    "scores",
    MetaData(),
    Column("key", String(64), primary_key=True),
    *(
        Column(name, _TYPES[kind], nullable=name in OPTIONAL)
        for name, kind in COLUMNS.items()
        if name != "key"
    ),
)
_READ_AT_ONCE: Final = 500  # rows in memory
# A forked process must neither use its parent's connections nor close them.
_INHERITED: Final[list[Engine]] = []


class Damaged(OSError):
    """The database was no use; if it was a file, that is out of the way."""


class Database:
    """Connections to the table of scores, made at the first use and after a fork.

    Whatever keeps the database from answering is an ``OSError`` that names it.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self._path = sqlite_path(url)
        self._is_read_only = url.query.get("mode") == "ro"
        # What to read from; of an old one that cannot be changed, as a new one is.
        self.table: FromClause = SCORES
        self._start()

    def __str__(self) -> str:
        return str(self._path or self.url)

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        if self._process == os.getpid():
            self._engine.dispose()
        self._opened: object = None

    def is_missing(self) -> bool:
        """Whether it is a file that the first use would make."""
        is_file = self._path is not None and not self._is_read_only
        return is_file and self._identity() == _NO_FILE

    def use(self, action: Callable[[Connection], T], *, is_writing: bool = False) -> T:
        """What the action gives in one transaction, in a new file if need be.

        Raises:
            OSError: The database is out of reach.
        """
        try:
            return self._use(action, is_writing)
        except Damaged:
            return self._use(action, is_writing)

    def stream(
        self, ask: Callable[[FromClause], Select[tuple[object, ...]]]
    ) -> Iterator[RowMapping]:
        """Rows as they are read: what a question to the table gives.

        Raises:
            OSError: The database is out of reach, or damaged, perhaps half way.
        """
        with self._reached(), self._ready().connect() as connection:
            lazy = connection.execution_options(yield_per=_READ_AT_ONCE)
            yield from lazy.execute(ask(self.table)).mappings()

    def _use(self, action: Callable[[Connection], T], is_writing: bool) -> T:
        with self._reached(), self._ready().begin() as connection:
            if is_writing and self._engine.dialect.name == "sqlite":
                # Who only then turns from reading to writing is refused, not queued.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            return action(connection)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Sets a damaged file aside; other failures of the database are OSErrors."""
        seen = self._identity()
        try:
            yield
        except DBAPIError as error:
            if _is_damage(error):
                raise self._set_aside(seen, str(error.orig)) from error
            if not _is_out_of_reach(error):
                raise
            raise OSError(f"{self}: {error.orig}") from error
        except Damaged:
            raise
        except (NoConnectionLeft, OSError) as error:
            raise OSError(f"{self}: {error}") from error

    def _start(self) -> None:
        self._process = os.getpid()
        self._engine = make_engine(self.url)
        self._opened = None
        self._lock = FileLock(f"{self._path}.lock", timeout=PATIENCE)
        weakref.finalize(self, _let_go, self._engine, self._process)

    def _ready(self) -> Engine:
        """The engine, when there is a table to use."""
        if self._process != os.getpid():
            _INHERITED.append(self._engine)
            self._start()
        # Another process may have set the file aside, or somebody deleted it.
        if self._opened != self._identity():
            self._engine.dispose()
            self._open()
            self._opened = self._identity()
        return self._engine

    def _identity(self) -> object:
        """Tells the file from another one at the same path."""
        if self._path is None:
            return self.url
        try:
            found = os.stat(self._path)
        except OSError:
            return _NO_FILE
        return found.st_dev, found.st_ino

    def _open(self) -> None:
        if self._path is None or self._is_read_only:
            self._check()
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever opens a file while it is renamed takes the new file's log for its own.
        with self._lock:
            self._check()

    def _check(self) -> None:
        """Make the table, if there is none, or add to it what older ones lack."""
        columns = self._columns()
        if not columns:
            self._make()
            return
        lacking = [name for name in ADDED if name not in columns]
        if odd := columns ^ set(COLUMNS) - set(lacking):
            odd_ones = ", ".join(sorted(odd))
            raise OSError(
                f"its table scores is another's: it has other columns, {odd_ones}"
            )
        self.table = _with_nulls(lacking) if self._is_read_only and lacking else SCORES
        if lacking and not self._is_read_only:
            self._add_columns(lacking)

    def _add_columns(self, names: Sequence[str]) -> None:
        try:
            with self._engine.begin() as connection:
                for name in names:
                    kind = SCORES.c[name].type.compile(self._engine.dialect)
                    change = f"ALTER TABLE {SCORES.name} ADD COLUMN {name} {kind}"
                    connection.execute(sql(change))
        except ProgrammingError:
            if self._columns() != set(COLUMNS):  # else another process was quicker
                raise

    def _columns(self) -> set[str]:
        with self._engine.connect() as connection:
            found = inspect(connection)
            if not found.has_table(SCORES.name):
                return set()
            return {column["name"] for column in found.get_columns(SCORES.name)}

    def _make(self) -> None:
        try:
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "sqlite":
                    # Readers then never wait, and a commit outlives the process.
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                SCORES.create(connection)
        except (IntegrityError, ProgrammingError):
            if not self._columns():  # else another process was quicker
                raise

    def _set_aside(self, seen: object, reason: str) -> Damaged:
        """Rename the file that was seen; what to raise."""
        path = self._path
        if path is None or self._is_read_only:
            return Damaged(f"{self} is damaged: {reason}")
        if not _is_ours(path):
            raise OSError(f"{path} is no store of scores, and is left alone: {reason}")
        self._engine.dispose()
        self._opened = None
        with self._lock:
            if self._identity() != seen:
                return Damaged(f"{self} was damaged, and renamed by another process")
            time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
            aside = path.with_name(f"{path.name}.damaged-{time}")
            # The log before the file: a new file must not find the log of the old.
            for suffix in ("-wal", "-shm", "-journal", ""):
                # SQLite deletes the log when nobody uses the file any more.
                with suppress(FileNotFoundError):
                    os.replace(f"{path}{suffix}", f"{aside}{suffix}")
        message = f"{path} is damaged ({reason}) and was renamed to {aside}"
        logger.warning("%s; a new one is started", message)
        return Damaged(message)


def _with_nulls(names: Sequence[str]) -> FromClause:
    """The table, with columns that are not in it."""
    columns = (
        cast(null(), column.type).label(column.name) if column.name in names else column
        for column in SCORES.c
    )
    return select(*columns).subquery(SCORES.name)


_NO_FILE: Final = "no file"
_HEADER: Final = b"SQLite format 3\0"
_SUFFIXES: Final = (".sqlite", ".sqlite3", ".db")


def _is_ours(path: Path) -> bool:
    """Whether a file is a database, or was one by its name."""
    if path.suffix in _SUFFIXES:
        return True
    with open(path, "rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def _let_go(engine: Engine, process: int) -> None:
    if process == os.getpid():
        engine.dispose()
    else:
        _INHERITED.append(engine)


def _is_damage(error: DBAPIError) -> bool:
    """Whether an SQLite file is no database, malformed, or has lost its table."""
    # sqlite3 has subclasses for all but these: SQLITE_CORRUPT and SQLITE_NOTADB.
    is_malformed = type(error.orig) is sqlite3.DatabaseError
    lost = isinstance(error.orig, sqlite3.Error) and "no such table" in str(error.orig)
    return is_malformed or lost


def _is_out_of_reach(error: DBAPIError) -> bool:
    """Whether it is the database's state that prevents an answer, not our question."""
    # SQL has it that who lacks the right to write has made an error in the question.
    is_forbidden = getattr(error.orig, "sqlstate", "") == "42501"
    kinds = (OperationalError, InterfaceError, InternalError)
    return isinstance(error, kinds) or is_forbidden
