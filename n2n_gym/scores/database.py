"""The table of scores in its database: opened at first use, replaced if damaged."""

from __future__ import annotations

import logging
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
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
    """The database is damaged; a writable file has already been renamed."""


class Database:
    """Connections to the table of scores, made at the first use and after a fork.

    If the database cannot answer, an ``OSError`` names it.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self._path = sqlite_path(url)
        self._is_read_only = url.query.get("mode") == "ro"
        # The table to read from. An old one that cannot be changed is read in the new
        # form.
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
        """Whether the database is a file that does not exist yet."""
        is_file = self._path is not None and not self._is_read_only
        return is_file and self._identity() == _NO_FILE

    def use(self, action: Callable[[Connection], T], *, is_writing: bool = False) -> T:
        """Run an action in one transaction; return the action's result.

        If the file is damaged, a new file replaces it, and the action runs again.

        Args:
            is_writing: Whether the action writes to the database.

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
        """The rows of a query, read in batches.

        Args:
            ask: Function that makes the query for a table.

        Raises:
            OSError: The database is out of reach or damaged; some rows may have been
                read.
        """
        with self._reached(), self._ready().connect() as connection:
            lazy = connection.execution_options(yield_per=_READ_AT_ONCE)
            yield from lazy.execute(ask(self.table)).mappings()

    def _use(self, action: Callable[[Connection], T], is_writing: bool) -> T:
        with self._reached(), self._ready().begin() as connection:
            if is_writing and self._engine.dialect.name == "sqlite":
                # A transaction that turns from reading to writing is refused, not
                # queued.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            return action(connection)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Context that renames a damaged file; other failures become OSErrors."""
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
        """The engine of a database that has the table; a missing table is made."""
        if self._process != os.getpid():
            _INHERITED.append(self._engine)
            self._start()
        # Another process may have set the file aside, or the user may have deleted it.
        if self._opened != self._identity():
            self._engine.dispose()
            self._open()
            self._opened = self._identity()
        return self._engine

    def _identity(self) -> object:
        """Identity of the file, which shows whether another file has replaced it."""
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
        # A process that opens the file during a rename would use the new file's log.
        with self._lock:
            self._check()

    def _check(self) -> None:
        """Make a missing table, or add the columns that an older table lacks."""
        columns = self._columns()
        if not columns:
            self._make()
            return
        lacking = [name for name in ADDED if name not in columns]
        if odd := columns ^ set(COLUMNS) - set(lacking):
            odd_ones = ", ".join(sorted(odd))
            raise OSError(
                f"its table 'scores' has other columns than a score store: {odd_ones}"
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
                    # Readers then never wait, and a commit survives the end of the
                    # process.
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                SCORES.create(connection)
        except (IntegrityError, ProgrammingError):
            if not self._columns():  # else another process was quicker
                raise

    def _set_aside(self, seen: object, reason: str) -> Damaged:
        """Rename a damaged file; return the error to raise."""
        path = self._path
        if path is None or self._is_read_only:
            return Damaged(f"{self} is damaged: {reason}")
        if not _is_ours(path):
            raise OSError(
                f"{path} is not a score store and was left unchanged: {reason}"
            )
        self._engine.dispose()
        self._opened = None
        with self._lock:
            if self._identity() != seen:
                return Damaged(f"{self} was damaged, and renamed by another process")
            time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
            aside = path.with_name(f"{path.name}.damaged-{time}")
            # The log before the file: a new file must not find the log of the old.
            for suffix in ("-wal", "-shm", "-journal", ""):
                # SQLite deletes the log when no process uses the file any more.
                with suppress(FileNotFoundError):
                    os.replace(f"{path}{suffix}", f"{aside}{suffix}")
        message = f"{path} is damaged ({reason}) and was renamed to {aside}"
        logger.warning("%s; a new one is started", message)
        return Damaged(message)


def _with_nulls(names: Sequence[str]) -> FromClause:
    """The table of scores with nulls in the named columns, which it lacks."""
    columns = (
        cast(null(), column.type).label(column.name) if column.name in names else column
        for column in SCORES.c
    )
    return select(*columns).subquery(SCORES.name)


_NO_FILE: Final = "no file"
_HEADER: Final = b"SQLite format 3\0"
_SUFFIXES: Final = (".sqlite", ".sqlite3", ".db")


def _is_ours(path: Path) -> bool:
    """Whether a file is an SQLite database, by its suffix or its first bytes."""
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
    """Whether an SQLite file is not a database, is malformed, or has lost its table."""
    # Only SQLITE_CORRUPT and SQLITE_NOTADB raise the base class itself.
    is_malformed = type(error.orig) is sqlite3.DatabaseError
    lost = isinstance(error.orig, sqlite3.Error) and "no such table" in str(error.orig)
    return is_malformed or lost


def _is_out_of_reach(error: DBAPIError) -> bool:
    """Whether the cause of an error is the database's state, not the query."""
    # In SQL, a missing right to write counts as an error in the query.
    is_forbidden = getattr(error.orig, "sqlstate", "") == "42501"
    kinds = (OperationalError, InterfaceError, InternalError)
    return isinstance(error, kinds) or is_forbidden
