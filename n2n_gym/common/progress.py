"""Progress bars of what may take long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tqdm.auto import tqdm

AFTER: Final = 2.0  # seconds


def progress(
    total: int | None, title: str, unit: str = "image", *, is_long: bool = False
) -> tqdm[Any]:
    """A bar that appears after two seconds, so that short work shows none.

    Args:
        total: How many units there are, if that is known; of bytes ("B") in KB, MB.
        is_long: Whether it appears at once: one step of the work takes seconds.
    """
    from tqdm.auto import tqdm  # reads --quiet as it is imported

    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=unit == "B",
        delay=0.0 if is_long else AFTER,
    )
