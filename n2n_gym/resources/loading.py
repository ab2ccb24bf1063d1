"""Resources by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from n2n_gym.common.plugins import check_call, lookup
from n2n_gym.resources.computed import num_macs, num_params, peak_bytes
from n2n_gym.resources.measured import Energy, Latency, onnx_bytes
from n2n_gym.resources.resource import Meter, Resource

RESOURCES: Final[Mapping[str, Resource]] = {
    "num_params": num_params,
    "num_macs": num_macs,
    "peak_bytes": peak_bytes,
    "onnx_bytes": onnx_bytes,
    "latency_ms": Latency(),
    "energy_mj": Energy(),
}
ALWAYS: Final = ("num_params", "num_macs")  # measured: they cost nothing
# What infos say by these names is something else.
TAKEN: Final = (
    *ALWAYS,
    *("accuracy", "teacher_accuracy", "compression", "violated", "reward_vector"),
    *("cost", "cost_once", "is_success", "error", "student", "fingerprint"),
    *("illegal", "infeasible", "action_mask", "idle", "episode"),
)


def load_meter(
    names: Iterable[str], functions: Mapping[str, Resource] | None = None
) -> Meter:
    """What measures resources.

    Args:
        names: Of ``RESOURCES``, of ``functions``, or "module:attribute".
        functions: The user's own, by name; all of them are measured.

    Raises:
        ValueError: A name is unknown, or what it names takes other arguments; or one
            of the user's own is what infos call something else.
    """
    own = dict(functions or {})
    for name in own:
        if name in TAKEN:
            raise ValueError(
                f"a resource cannot be called {name!r}; taken: {', '.join(TAKEN)}"
            )
    known = {**RESOURCES, **own}
    found = {}
    for name in dict.fromkeys((*ALWAYS, *own, *names)):
        found[name] = lookup("resource", name, known, also=("accuracy",))
        check_call("resource", name, found[name], "student", "teacher")
    return Meter(found)
