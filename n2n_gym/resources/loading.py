"""Resources by name, measured or predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from n2n_gym.common.plugins import check_call, lookup
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources.records import RECORDS
from n2n_gym.resources.resource import Meter, Resource

RESOURCES: Final[Mapping[str, Resource]] = {
    name: record.function for name, record in RECORDS.items()
}
# In every meter: they cost nothing.
COUNTED: Final = tuple(name for name, record in RECORDS.items() if record.is_counted)
# Names that infos use for something else.
TAKEN: Final = (
    *COUNTED,
    *("accuracy", "teacher_accuracy", "compression", "violated", "reward_vector"),
    *("cost", "cost_once", "is_success", "error", "student", "fingerprint"),
    *("illegal", "infeasible", "action_mask", "idle", "episode"),
)


def load_meter(
    names: Iterable[str], functions: Mapping[str, Resource] | None = None
) -> Meter:
    """A meter of these resources and of ``COUNTED``.

    Args:
        names: Names from ``RESOURCES`` or ``functions``, or "module:attribute".
        functions: The user's own resources by name; all of them are measured.

    Raises:
        ValueError: A name is unknown, a resource does not take a student and a teacher,
            or one of ``functions`` has a name that infos use for something else.
    """
    own = dict(functions or {})
    for name in own:
        if name in TAKEN:
            raise ValueError(
                f"a resource cannot be called {name!r}; taken: {', '.join(TAKEN)}"
            )
    known = {**RESOURCES, **own}
    found = {}
    for name in dict.fromkeys((*COUNTED, *own, *names)):
        found[name] = lookup("resource", name, known, also=("accuracy",))
        check_call("resource", name, found[name], "student", "teacher")
    return Meter(found)


def predicted(
    teacher: Architecture, measured: Mapping[str, float]
) -> dict[str, Resource]:
    """Functions that predict the file size and the latency of students, by name.

    Args:
        teacher: The teacher's architecture.
        measured: The teacher's measured resources, by name. A resource is predicted
            only if it is one of them.
    """
    return {
        name: record.predictor(teacher, measured[name])
        for name, record in RECORDS.items()
        if record.predictor and name in measured
    }
