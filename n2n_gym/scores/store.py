"""The store of scores, shared by processes and runs; its failure never ends a run."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import (
    Any,
    Final,
    Literal,
    NamedTuple,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
)

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    RowMapping,
    Select,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from n2n_gym.rewards import Failure, Score
from n2n_gym.scores.addresses import as_url
from n2n_gym.scores.database import SCORES, Database
from n2n_gym.scores.entry import (
    COLUMNS,
    UNKNOWN,
    Entry,
    Key,
    Provenance,
    as_row,
    from_row,
    now,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Conditions of a query.
_Where: TypeAlias = Callable[[FromClause], list[ColumnElement[bool]]]

_PAUSE: Final = 300.0  # seconds until a database out of reach is tried again
_AT_ONCE: Final = 500  # keys; some builds of SQLite take no more than 999 parameters


class Which(TypedDict, total=False):
    """Filters of entries; a filter that is missing or None accepts all entries."""

    teacher_name: str | None
    task_name: str | None
    rung: str | None
    fingerprint: str | None  # beginning of the student's fingerprint


class Merged(NamedTuple):
    """Numbers of entries that a merge added, or that the store already had."""

    added: int
    known: int  # existed with the same accuracy
    different: int  # existed with another accuracy, which stays


class ScoreStore:
    """Scores of students; a score's key has everything that the score depends on.

    Nothing is opened before the first use. Processes and threads can use the same
    database, also after a fork. A store can be pickled.

    If the database is out of reach, ``get`` and ``put`` warn once, set ``trouble``, and
    go on without the database. Waiting scores are written when the database is back;
    the last attempt is in ``close``. A damaged SQLite file is renamed, and a new file
    is started. A store warns once if it has seen scores from two kinds of machine.

    Args:
        url: A path, or a database's URL for SQLAlchemy; by default ``scores.sqlite`` in
            the cache folder.

    Raises:
        ValueError: The URL is malformed, or its driver is missing.
    """

    def __init__(self, url: str | Path | None = None) -> None:
        self._database = Database(as_url(url))
        self._unsound: set[str] = set()  # digests of damaged rows
        # Rows to write when the database is back.
        self._unwritten: deque[dict[str, Any]] = deque()
        self._troubles: dict[str, tuple[str, float]] = {}  # reason, until when
        self._has_warned = False
        self._machines: set[Provenance] = set()  # kinds of machine seen so far

    def __repr__(self) -> str:
        return f"ScoreStore({str(self._database)!r})"

    def __str__(self) -> str:
        return str(self._database)

    def __reduce__(self) -> tuple[type[ScoreStore], tuple[str]]:
        url = self._database.url
        return ScoreStore, (url.render_as_string(hide_password=False),)

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Entry]:
        return self.rows()

    def close(self) -> None:
        """Write waiting scores and close all connections; the next use reopens them."""
        if self._unwritten:
            self._troubles.pop("kept", None)  # the last chance: try now
            self._attempt("kept", self._write)
            if self._unwritten:
                logger.warning("%s: %d scores are lost", self, len(self._unwritten))
        self._database.close()

    @property
    def trouble(self) -> str | None:
        """The reason why scores are not looked up or not stored now; otherwise None."""
        return next((reason for reason, _ in self._troubles.values()), None)

    def get(self, keys: Sequence[Key]) -> dict[str, Score | Failure]:
        """The stored results of these keys, by ``Key.digest``."""
        wanted = {key.digest: key for key in keys}
        rows = self._attempt("looked up", lambda: self._fetch(list(wanted))) or []
        entries = [entry for row in rows if (entry := self._checked(row))]
        self._note(entry.provenance for entry in entries)
        return {
            entry.key.digest: entry.result
            for entry in entries
            if entry.key == wanted[entry.key.digest]
        }

    def put(
        self,
        key: Key,
        result: Score | Failure,
        *,
        teacher_name: str,
        task_name: str,
        seconds: float,
        provenance: Provenance = UNKNOWN,
    ) -> None:
        """Store a result, unless the database already has a result for the key.

        Args:
            seconds: Duration of the measurement.
            provenance: Kind of machine that measured the score.

        Raises:
            ValueError: Accuracy is not in [0, 1], a count or an amount is negative, or
                the failure may be temporary.
        """
        names = teacher_name, task_name
        entry = Entry(key, result, *names, seconds, now(), provenance)
        self._note([provenance])
        self._unwritten.append(as_row(entry))
        self._attempt("kept", self._write)

    def rows(
        self,
        *,
        newest_first: bool = False,
        limit: int | None = None,
        **which: Unpack[Which],
    ) -> Iterator[Entry]:
        """Matching entries, sorted by teacher, task, evaluator and falling accuracy.

        Args:
            newest_first: Whether to sort by date instead.
            limit: Largest number of entries; None for all.
            which: Filters of the entries.

        Raises:
            OSError: The database is out of reach, or damaged.
        """
        if self._database.is_missing():
            return
        where = _conditions(which)

        def ask(table: FromClause) -> Select[tuple[object, ...]]:
            columns = table.c
            by_name = (
                columns.teacher_name,
                columns.task_name,
                columns.rung,
                columns.accuracy.desc().nulls_last(),
            )
            order = (columns.created.desc(),) if newest_first else by_name
            query = select(table).where(*where(table))
            return query.order_by(*order, columns.key).limit(limit)

        for row in self._database.stream(ask):
            if entry := self._checked(row):
                yield entry

    def count_by(
        self, columns: Sequence[str], **which: Unpack[Which]
    ) -> dict[tuple[Any, ...], int]:
        """Number of entries for each combination of values of these columns.

        Raises:
            OSError: The database is out of reach.
        """
        if self._database.is_missing():
            return {}
        where = _conditions(which)

        def read(connection: Connection) -> dict[tuple[Any, ...], int]:
            table = self._database.table
            names = [table.c[name] for name in columns]
            query = select(*names, func.count()).select_from(table)
            query = query.where(*where(table)).group_by(*names).order_by(*names)
            return {tuple(row[:-1]): row[-1] for row in connection.execute(query)}

        return self._database.use(read)

    def machines(self, **which: Unpack[Which]) -> dict[Provenance, int]:
        """Number of entries from each kind of machine.

        Raises:
            OSError: The database is out of reach.
        """
        found = self.count_by(Provenance._fields, **which)
        return {Provenance(*values): count for values, count in found.items()}

    def count(self) -> int:
        """Number of entries.

        Raises:
            OSError: The database is out of reach.
        """
        return sum(self.count_by(()).values())

    def merge(self, others: Iterable[Entry]) -> Merged:
        """Add all entries of another store or of ``read_scores`` that this store lacks.

        Entries are added in batches. After an error, merging again adds the rest.

        Raises:
            OSError: A database is out of reach, or damaged.
        """
        added = known = different = 0
        entries = iter(others)
        self._note(self.machines())
        while batch := list(islice(entries, _AT_ONCE)):
            self._note(entry.provenance for entry in batch)
            rows = {entry.key.digest: as_row(entry) for entry in batch}
            for ours in self._fetch(list(rows)):
                if self._checked(ours):
                    theirs = rows.pop(ours["key"])
                    is_known = ours["accuracy"] == theirs["accuracy"]
                    known += is_known
                    different += not is_known
            if rows:
                self._add(list(rows.values()))
            added += len(rows)
        return Merged(added, known, different)

    def _fetch(self, digests: Sequence[str]) -> list[RowMapping]:
        def read(connection: Connection) -> list[RowMapping]:
            table, found = self._database.table, list[RowMapping]()
            for start in range(0, len(digests), _AT_ONCE):
                some = table.c.key.in_(digests[start : start + _AT_ONCE])
                found += connection.execute(select(table).where(some)).mappings()
            return found

        return self._database.use(read)

    def _write(self) -> None:
        while self._unwritten:
            try:
                row = self._unwritten.popleft()
            except IndexError:  # another thread has it
                return
            try:
                self._add([row])
            except BaseException:
                self._unwritten.appendleft(row)
                raise

    def _add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows; an existing row of the same key stays, unless it is damaged."""
        unsound = [row["key"] for row in rows if row["key"] in self._unsound]

        def write(connection: Connection) -> None:
            if unsound:
                which = SCORES.c.key.in_(unsound)
                connection.execute(delete(SCORES).where(which))
            connection.execute(insert(SCORES), rows)

        try:
            self._database.use(write, is_writing=True)
        except IntegrityError:
            # One of the rows exists already; adding each by itself finds out which.
            if len(rows) > 1:
                for row in rows:
                    self._add([row])
            elif not self._fetch([rows[0]["key"]]):
                raise
        self._unsound.difference_update(unsound)

    def _checked(self, row: RowMapping) -> Entry | None:
        """The entry of a row; None, with a warning, if the row is damaged."""
        try:
            return from_row({name: row[name] for name in COLUMNS})
        except ValueError as error:
            if row["key"] not in self._unsound:
                logger.warning("%s: a row is damaged and left out: %s", self, error)
            self._unsound.add(row["key"])
            return None

    def _note(self, provenances: Iterable[Provenance]) -> None:
        """Warn at the first mixture of scores from different kinds of machine."""
        before = len(self._machines)
        self._machines.update(each for each in provenances if each != UNKNOWN)
        if before < 2 <= len(self._machines):
            logger.warning(
                "%s: scores of %s are mixed; they may differ in their last digits",
                self,
                " and of ".join(sorted(map(str, self._machines))),
            )

    def _attempt(
        self, what: Literal["looked up", "kept"], action: Callable[[], T]
    ) -> T | None:
        """The result of an action; None while the database is out of reach."""
        _, until = self._troubles.get(what, ("", 0.0))
        if time.monotonic() < until:
            return None
        try:
            result = action()
        except OSError as error:
            if not self._has_warned:
                logger.warning(
                    "scores cannot be %s: %s. The run goes on without", what, error
                )
            self._has_warned = True
            self._troubles[what] = str(error), time.monotonic() + _PAUSE
            return None
        self._troubles.pop(what, None)
        return result


def _conditions(which: Which) -> _Where:
    def where(table: FromClause) -> list[ColumnElement[bool]]:
        columns: Any = table.c
        equal = {name: value for name, value in which.items() if value is not None}
        beginning = equal.pop("fingerprint", None)
        found = [columns[name] == value for name, value in equal.items()]
        if beginning is not None:
            found.append(columns.fingerprint.startswith(beginning, autoescape=True))
        return found

    return where
