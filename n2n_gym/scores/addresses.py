"""Addresses of databases, and the engine for each."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from n2n_gym.common.files import cache_folder

PATIENCE: Final = 60.0  # seconds that a process waits for others to finish writing
_DRIVERS: Final = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}


def as_url(url: str | Path | None) -> URL:
    """The URL of a database.

    Args:
        url: URL or path of the database; None for the default file in the cache folder.

    Raises:
        ValueError: The URL is malformed.
    """
    if url is None:
        url = cache_folder() / "scores.sqlite"
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(Path(url).expanduser().absolute()))
    try:
        found = make_url(url)
    except (ArgumentError, ValueError) as error:
        hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
        raise ValueError(
            f"{hidden!r} is no address of a database: expected a file's path or "
            f"something like postgresql+psycopg://user:password@host:5432/database"
        ) from error
    path = sqlite_path(found)
    # A worker process may have another working directory.
    return found.set(database=str(path)) if path and not is_uri(found) else found


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite database; None if in memory or of another kind."""
    database = url.database
    if url.get_backend_name() != "sqlite" or not database or ":memory:" in database:
        return None
    if is_uri(url):
        database = unquote(urlsplit(database).path)
    return Path(database).absolute()


def is_uri(url: URL) -> bool:
    """Whether the URL has an SQLite URI, such as ``file:/a/path?mode=ro&uri=true``."""
    return (url.database or "").startswith("file:")


def make_engine(url: URL) -> Engine:
    """The engine for a database; nothing is opened yet.

    Raises:
        ValueError: The kind of database is unknown, or its driver is unusable.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    try:
        if is_sqlite:
            # Reads take no lock; each write begins its own transaction.
            options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
            options["connect_args"] = {"timeout": PATIENCE}
        else:
            options = {"pool_pre_ping": True}  # servers are restarted now and then
        engine = create_engine(url, **options)
    except NoSuchModuleError as error:
        raise ValueError(
            f"{url} names an unknown kind of database, {url.drivername!r}; known: "
            f"sqlite, postgresql, and what else SQLAlchemy has"
        ) from error
    except ImportError as error:
        package = _DRIVERS.get(error.name or "", error.name)
        raise ValueError(
            f'{url} needs a driver that is missing: pip install "{package}"'
        ) from error
    if engine.dialect.is_async:
        raise ValueError(
            f"{url} has an asynchronous driver; give a synchronous one, such as "
            f"postgresql+psycopg"
        )
    if is_sqlite:
        event.listen(engine, "connect", _set_up)
    return engine


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    # With a write-ahead log, committed rows survive the end of the process. A power cut
    # may lose the last rows, but leaves the file intact.
    connection.execute("PRAGMA synchronous = NORMAL")
    # A damaged text makes one row damaged; other rows are still read.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
