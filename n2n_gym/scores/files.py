"""Scores as files: CSV, JSON lines and Parquet, written and read back."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from n2n_gym.common.files import written_whole
from n2n_gym.scores.entry import ADDED, COLUMNS, Entry, as_row, from_row

_AT_ONCE: Final = 10_000  # rows of a group in a Parquet file

Row = Mapping[str, Any]


def write_scores(path: Path, entries: Iterable[Entry]) -> int:
    """Write entries to a file, completely or not at all; the suffix says its format.

    Returns:
        The number of entries.

    Raises:
        ValueError: The suffix is unknown, or pyarrow is missing.
    """
    kind = _kind(path)
    count = 0

    def rows() -> Iterator[Row]:
        nonlocal count
        for entry in entries:
            count += 1
            yield as_row(entry)

    with written_whole(path) as file:
        kind.write(file, rows())
    return count


def read_scores(path: Path) -> Iterator[Entry]:
    """The checked entries of a file of ``write_scores``; no code in the file runs.

    Raises:
        ValueError: A row is malformed, the kind of file is unknown, or pyarrow is
            missing.
    """
    kind = _kind(path)
    number = 1
    with open(path, "rb") as file:
        try:
            for row in kind.read(file):
                yield from_row(row)
                number += 1
        except (ValueError, OSError, RecursionError, csv.Error) as error:
            raise ValueError(f"{path}, row {number}: {error}") from error


def _kind(path: Path) -> _Kind:
    try:
        kind = _KINDS[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{str(path)!r} must end in one of {', '.join(_KINDS)}"
        ) from None
    if kind is _KINDS[".parquet"]:
        _import_pyarrow()
    return kind


def _write_csv(file: IO[bytes], rows: Iterator[Row]) -> None:
    text = codecs.getwriter("utf-8")(file)
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)


def _read_csv(file: IO[bytes]) -> Iterator[Row]:
    lines = codecs.iterdecode(file, "utf-8")
    for row in csv.DictReader(lines, strict=True):
        yield {name: _from_csv(name, cell, row) for name, cell in row.items()}


def _from_csv(name: str, cell: str | None, row: Mapping[str, str | None]) -> object:
    """The value of a CSV cell in its column's type; an empty cell can mean None."""
    kind = COLUMNS.get(name, str)
    if name == "error":
        # A failure has no accuracy, and its reason may be empty.
        return cell if cell or not row.get("accuracy") else None
    if name in ADDED and not cell:
        return None
    if cell is None or kind is str:
        return cell
    if not cell:
        return None
    try:
        return kind(cell)
    except ValueError:
        return cell  # its type is refused later


def _write_json(file: IO[bytes], rows: Iterator[Row]) -> None:
    for row in rows:
        file.write(json.dumps(row).encode() + b"\n")


def _read_json(file: IO[bytes]) -> Iterator[Row]:
    for line in file:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, got {row!r}")
        yield row


def _write_parquet(file: IO[bytes], rows: Iterator[Row]) -> None:
    pa = _import_pyarrow()
    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with pa.parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(rows, _AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema))


def _read_parquet(file: IO[bytes]) -> Iterator[Row]:
    pa = _import_pyarrow()
    try:
        for batch in pa.parquet.ParquetFile(file).iter_batches(_AT_ONCE):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"it cannot be read as Parquet: {error}") from error


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f'Parquet files need pyarrow ({error}): pip install "n2n-gym[parquet]"'
        ) from error
    return pyarrow


class _Kind(NamedTuple):
    write: Callable[[IO[bytes], Iterator[Row]], None]
    read: Callable[[IO[bytes]], Iterator[Row]]


_KINDS: Final[Mapping[str, _Kind]] = {
    ".csv": _Kind(_write_csv, _read_csv),
    ".jsonl": _Kind(_write_json, _read_json),
    ".parquet": _Kind(_write_parquet, _read_parquet),
}
