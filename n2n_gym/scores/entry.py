"""A stored score: its key, its values and its origin."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, NamedTuple

from n2n_gym.rewards import Failure, Score

COLUMNS: Final[Mapping[str, type[str] | type[int] | type[float]]] = {
    "key": str,
    "fingerprint": str,
    "teacher": str,
    "teacher_name": str,
    "task": str,
    "task_name": str,
    "split": str,
    "rung": str,
    "settings": str,
    "version": int,
    "accuracy": float,
    "num_params": int,
    "num_macs": int,
    "cost": float,
    "error": str,
    "torch": str,
    "instructions": str,
    "seconds": float,
    "created": str,
}
# Older files and databases lack these.
ADDED: Final = ("torch", "instructions")
# A score has all columns except the error; a failure has only the error.
OPTIONAL: Final = ("accuracy", "num_params", "num_macs", "cost", "error", *ADDED)
_LARGEST: Final = 2**63 - 1  # whole number that databases keep


def canonical(value: object) -> str:
    """The canonical JSON of a value.

    Raises:
        ValueError: The value contains a number that is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Key:
    """Everything that a score depends on.

    Attributes:
        fingerprint: Fingerprint of the student.
        teacher: Hash of the teacher's weights.
        task: Fingerprint of the data.
        split: Split on which accuracy was measured.
        rung: Name of the evaluator: how thoroughly the student was trained.
        settings: All other resolved settings (precision, device, threads, ...), as
            ``canonical`` writes them.
        version: Version of the way scores are measured.

    Raises:
        ValueError: The settings are not canonical JSON.
    """

    fingerprint: str
    teacher: str
    task: str
    split: str
    rung: str
    settings: str
    version: int

    def __post_init__(self) -> None:
        try:
            expected = canonical(json.loads(self.settings))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"settings must be JSON, got {self.settings!r}: {error}"
            ) from error
        if self.settings != expected:
            raise ValueError(
                f"settings must be canonical JSON, got {self.settings!r}, "
                f"expected {expected!r}"
            )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields, the primary key of the score in the database."""
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()


class Provenance(NamedTuple):
    """The kind of machine that measured a score; unknown fields are None.

    Scores from different kinds of machine differ only in their last digits, so the kind
    is not part of the key. Precision, device and threads also affect the arithmetic;
    they are in the key's settings.
    """

    torch: str | None = None  # "2.14": patch versions compute the same
    instructions: str | None = None  # "x86_64 AVX512", "sm_90"

    def __str__(self) -> str:
        if self == UNKNOWN:
            return "an unknown kind"
        return f"torch {self.torch or '?'} on {self.instructions or '?'}"


UNKNOWN: Final = Provenance()


@dataclass(frozen=True)
class Entry:
    """A student's score, or the reason why the student has no score.

    Attributes:
        seconds: Duration of the measurement.
        created: Date and time of the measurement, in ISO 8601, UTC.
        provenance: Kind of machine that measured the score.

    Raises:
        ValueError: A number is out of its range, ``created`` is not in UTC, or the
            failure may be temporary.
    """

    key: Key
    result: Score | Failure
    teacher_name: str
    task_name: str
    seconds: float
    created: str
    provenance: Provenance = UNKNOWN

    def __post_init__(self) -> None:
        if isinstance(self.result, Failure):
            if self.result.retryable:
                raise ValueError(
                    f"a failure that may be temporary cannot be stored: "
                    f"{self.result.reason}"
                )
        else:
            accuracy, num_params, num_macs, cost = self.result[:4]
            if not 0 <= accuracy <= 1:
                raise ValueError(f"accuracy must be in [0, 1], got {accuracy}")
            for name, count in (("num_params", num_params), ("num_macs", num_macs)):
                if not 0 <= count <= _LARGEST:
                    raise ValueError(f"{name} must be in [0, 2**63), got {count}")
            _check_amount("cost", cost)
        _check_amount("seconds", self.seconds)
        if datetime.fromisoformat(self.created).utcoffset() != timedelta(0):
            raise ValueError(f"created must be in UTC, got {self.created!r}")


def as_row(entry: Entry) -> dict[str, Any]:
    """The entry's values by column, in the order of ``COLUMNS``."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row.update(asdict(entry.key), key=entry.key.digest)
    if isinstance(entry.result, Failure):
        row["error"] = _plain(entry.result.reason)
    else:
        accuracy, num_params, num_macs, cost = entry.result[:4]
        row.update(
            accuracy=float(accuracy),
            num_params=int(num_params),
            num_macs=int(num_macs),
            cost=float(cost),
        )
    row.update(
        teacher_name=_plain(entry.teacher_name),
        task_name=_plain(entry.task_name),
        seconds=float(entry.seconds),
        created=entry.created,
        **entry.provenance._asdict(),
    )
    return row


def from_row(row: Mapping[str, Any]) -> Entry:
    """The entry in a row of ``as_row``; older rows lack the columns ``ADDED``.

    Raises:
        ValueError: A column is missing, has another type or is out of range, or the key
            does not match the other columns.
    """
    row = {**dict.fromkeys(ADDED), **row}
    if row.keys() != COLUMNS.keys():
        raise ValueError(
            f"the columns must be {', '.join(COLUMNS)}; missing or unknown: "
            f"{', '.join(sorted(map(str, row.keys() ^ COLUMNS.keys())))}"
        )
    for name, kind in COLUMNS.items():
        value = row[name]
        is_fit = type(value) is kind or (kind is float and type(value) is int)
        if not (is_fit or (value is None and name in OPTIONAL)):
            raise ValueError(f"{name} must be of type {kind.__name__}, got {value!r}")
    fields = ("fingerprint", "teacher", "task", "split", "rung", "settings", "version")
    key = Key(*(row[name] for name in fields))
    if row["key"] != key.digest:
        raise ValueError(
            f"its key is {row['key']}, but its columns give the key {key.digest}"
        )
    numbers = row["accuracy"], row["num_params"], row["num_macs"], row["cost"]
    result: Score | Failure
    if row["error"] is not None and all(number is None for number in numbers):
        result = Failure(row["error"], retryable=False)
    elif row["error"] is None and all(number is not None for number in numbers):
        result = Score(*numbers)
    else:
        raise ValueError("it must have a score or an error, and not both")
    names = row["teacher_name"], row["task_name"]
    where = Provenance(*(row[name] for name in Provenance._fields))
    return Entry(key, result, *names, row["seconds"], row["created"], where)


def now() -> str:
    """The present time, in the format of ``Entry.created``."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _check_amount(name: str, amount: float) -> None:
    if not (math.isfinite(amount) and amount >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {amount}")


def _plain(text: str) -> str:
    """Text that every database can store: without NULs and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
