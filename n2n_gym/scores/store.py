"""The store of scores: shared by processes and runs, and never the end of a run."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

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

# Conditions of a question to the table.
_Where: TypeAlias = Callable[[FromClause], list[ColumnElement[bool]]]

_PAUSE: Final = 300.0  # seconds until a database out of reach is tried again
_AT_ONCE: Final = 500  # keys; some builds of SQLite take no more than 999 parameters


class Merged(NamedTuple):
    """What became of the entries of another store."""

    added: int
    known: int  # here already, with the same accuracy
    different: int  # here already, with another accuracy, which stays


class ScoreStore:
    """Scores of students, each under all that it depends on.

    Nothing is opened before the first use. Processes and threads may use the same
    database, also over a fork, and a store can be pickled. Where the database is out of
    reach, ``get`` and ``put`` say so once, in a warning and as ``trouble``, and do
    without it; what was to be kept is written when it is back, or at last in ``close``.
    A damaged SQLite file is renamed, and a new one started. Where one process has to do
    with scores of two kinds of machine, it says so once, in a warning.

    Args:
        url: A path, or any database's URL as SQLAlchemy takes it; by default
            ``scores.sqlite`` in the cache folder.

    Raises:
        ValueError: The URL is malformed, or its driver is missing.
    """

    def __init__(self, url: str | Path | None = None) -> None:
        self._database = Database(as_url(url))
        self._unsound: set[str] = set()  # digests of damaged rows
        # Rows, while it is out of reach.
        self._unwritten: deque[dict[str, Any]] = deque()
        self._troubles: dict[str, tuple[str, float]] = {}  # reason, until when
        self._has_warned = False
        self._machines: set[Provenance] = set()  # that scores here have come from

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
        """Close all connections; the next use opens new ones."""
        if self._unwritten:
            self._troubles.pop("kept", None)  # the last chance: try now
            self._attempt("kept", self._write)
            if self._unwritten:
                logger.warning("%s: %d scores are lost", self, len(self._unwritten))
        self._database.close()

    @property
    def trouble(self) -> str | None:
        """Why scores are not found or not kept at the moment; None if they are."""
        return next((reason for reason, _ in self._troubles.values()), None)

    def get(self, keys: Sequence[Key]) -> dict[str, Score | Failure]:
        """What is known of these, by ``Key.digest``."""
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
        """Keep a result, unless there is one: the first stays.

        Args:
            seconds: What measuring took.
            provenance: Where that was.

        Raises:
            ValueError: Accuracy is not in [0, 1], a count or an amount is negative, or
                the failure is one that may pass.
        """
        names = teacher_name, task_name
        entry = Entry(key, result, *names, seconds, now(), provenance)
        self._note([provenance])
        self._unwritten.append(as_row(entry))
        self._attempt("kept", self._write)

    def rows(
        self,
        *,
        teacher_name: str | None = None,
        task_name: str | None = None,
        rung: str | None = None,
        fingerprint: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        """All entries, or some: by teacher, task and rung, and the best first in each.

        Args:
            fingerprint: How the student's begins.

        Raises:
            OSError: The database is out of reach, or damaged.
        """
        if self._database.is_missing():
            return
        where = _conditions(teacher_name, task_name, rung, fingerprint)

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

    def count_by_rung(
        self,
        *,
        teacher_name: str | None = None,
        task_name: str | None = None,
        rung: str | None = None,
        fingerprint: str | None = None,
    ) -> dict[str, int]:
        """How many entries there are of each rung.

        Raises:
            OSError: The database is out of reach.
        """
        where = _conditions(teacher_name, task_name, rung, fingerprint)
        return {row[0]: row[1] for row in self._count_by(["rung"], where)}

    def count_by_machine(
        self,
        *,
        teacher_name: str | None = None,
        task_name: str | None = None,
        rung: str | None = None,
        fingerprint: str | None = None,
    ) -> dict[Provenance, int]:
        """How many entries there are from each kind of machine.

        Raises:
            OSError: The database is out of reach.
        """
        where = _conditions(teacher_name, task_name, rung, fingerprint)
        found = self._count_by(Provenance._fields, where)
        return {Provenance(*row[:-1]): row[-1] for row in found}

    def count(self) -> int:
        """How many entries there are.

        Raises:
            OSError: The database is out of reach.
        """
        return sum(self.count_by_rung().values())

    def merge(self, others: Iterable[Entry]) -> Merged:
        """Add what is missing here: of another store, or of ``read_scores``.

        It goes in batches: after an error what was added stays, and merging again adds
        the rest.

        Raises:
            OSError: A database is out of reach, or damaged.
        """
        added = known = different = 0
        entries = iter(others)
        self._note(self.count_by_machine())
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

    def _count_by(self, names: Sequence[str], where: _Where) -> list[tuple[Any, ...]]:
        """How many entries there are for each value of some columns, after these."""
        if self._database.is_missing():
            return []

        def read(connection: Connection) -> list[tuple[Any, ...]]:
            table = self._database.table
            columns = [table.c[name] for name in names]
            query = select(*columns, func.count()).where(*where(table))
            query = query.group_by(*columns).order_by(*columns)
            return [tuple(row) for row in connection.execute(query)]

        return self._database.use(read)

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
        """Insert rows; where there is one of that key, it stays, unless damaged."""
        unsound = [row["key"] for row in rows if row["key"] in self._unsound]

        def write(connection: Connection) -> None:
            if unsound:
                which = SCORES.c.key.in_(unsound)
                connection.execute(delete(SCORES).where(which))
            connection.execute(insert(SCORES), rows)

        try:
            self._database.use(write, is_writing=True)
        except IntegrityError:
            # One of them is there already; every database can tell which that way.
            if len(rows) > 1:
                for row in rows:
                    self._add([row])
            elif not self._fetch([rows[0]["key"]]):
                raise
        self._unsound.difference_update(unsound)

    def _checked(self, row: RowMapping) -> Entry | None:
        """The entry; None if the row is damaged: that is said."""
        try:
            return from_row({name: row[name] for name in COLUMNS})
        except ValueError as error:
            if row["key"] not in self._unsound:
                logger.warning("%s: a row is damaged and left out: %s", self, error)
            self._unsound.add(row["key"])
            return None

    def _note(self, provenances: Iterable[Provenance]) -> None:
        """Say so, the first time that scores of different machines come together."""
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
        """What the action gives; None while the database is out of reach."""
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


def _conditions(
    teacher_name: str | None,
    task_name: str | None,
    rung: str | None,
    fingerprint: str | None,
) -> _Where:
    def where(table: FromClause) -> list[ColumnElement[bool]]:
        columns = table.c
        asked = (
            (columns.teacher_name, teacher_name),
            (columns.task_name, task_name),
            (columns.rung, rung),
        )
        found = [column == value for column, value in asked if value is not None]
        if fingerprint is not None:
            found.append(columns.fingerprint.startswith(fingerprint, autoescape=True))
        return found

    return where
