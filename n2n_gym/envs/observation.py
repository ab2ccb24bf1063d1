"""The observation of an episode: constant columns, and columns that change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.envs.columns import COLUMNS, PLACE, SHARES
from n2n_gym.envs.episode import Episode
from n2n_gym.envs.features import rows, static_features
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Removal, Shrinkage

CURRENT: Final = PLACE["current"]
DECIDED: Final = PLACE["decided"]
CHOICE: Final = PLACE["choice"]
LEFT: Final = PLACE["left"]
TAKEN: Final = PLACE[f"taken_{SHARES[0]}"]
LEAST: Final = PLACE[f"least_{SHARES[0]}"]
TARGET: Final = PLACE[f"target_{SHARES[0]}"]


class Layout:
    """The layout of an observation: the row of each decision, and constant columns.

    Raises:
        ValueError: There are more rows than ``max_rows``.
    """

    def __init__(
        self,
        name: str,
        start: Architecture,
        decisions: Sequence[Removal | Shrinkage],
        max_rows: int | None,
    ) -> None:
        shown = rows(start, decisions)
        height = len(shown) if max_rows is None else max_rows
        if len(shown) > height:
            raise ValueError(
                f"max_rows={max_rows} is too few for {name}; it has {len(shown)} rows"
            )
        self.num_rows = len(shown)
        self.row_of = [i for i, row in enumerate(shown) if row.decides is not None]
        self.static = np.zeros((height, len(COLUMNS)), np.float32)
        self.static[: self.num_rows] = static_features(start, shown)

    def fresh(self, targets: Mapping[str, float]) -> NDArray[np.float32]:
        """The observation before the first decision.

        Args:
            targets: Limits as fractions of the teacher's amounts, by the names of
                ``SHARES``. A resource without a limit is missing, and gets the value 1.
        """
        observation = self.static.copy()
        real = observation[: self.num_rows]
        real[:, TARGET : TARGET + len(SHARES)] = [targets.get(s, 1.0) for s in SHARES]
        return observation

    def show(
        self,
        observation: NDArray[np.float32],
        episode: Episode,
        whole: Architecture,
        shares: Mapping[str, tuple[float, float]],
    ) -> None:
        """Write the state of an episode into every row except padding.

        Args:
            whole: The teacher; the observation shows fractions of its counts.
            shares: Current amount and lower bound, as fractions of the teacher's
                amount, of limited resources other than parameters and MACs, by the
                names of ``SHARES``.
        """
        taken, floor = episode.taken, episode.floor
        num_params, num_macs = whole.num_params, whole.num_macs
        real = observation[: self.num_rows]
        real[:, LEFT] = 1 - episode.position / len(episode.decisions)
        real[:, TAKEN : TAKEN + 2] = (
            min(1.0, taken.num_params / num_params),
            min(1.0, taken.num_macs / num_macs),
        )
        real[:, LEAST : LEAST + 2] = (
            min(1.0, floor.num_params / num_params),
            min(1.0, floor.num_macs / num_macs),
        )
        for share, (now, least) in shares.items():
            place = SHARES.index(share)
            real[:, TAKEN + place], real[:, LEAST + place] = now, least
