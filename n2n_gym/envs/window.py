"""A window that shows frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray


class Window:
    """A matplotlib window, as large as its frames.

    Raises:
        DependencyNotInstalled: matplotlib is missing.
    """

    def __init__(self) -> None:
        try:
            from matplotlib import pyplot
        except ModuleNotFoundError as error:
            raise DependencyNotInstalled(
                'render_mode="human" needs matplotlib: pip install "n2n-gym[human]"'
            ) from error
        self._pyplot = pyplot
        self._picture: Any = None

    def show(self, frame: NDArray[np.uint8], seconds: float) -> None:
        """Show a frame, (H, W, 3), for at least this many seconds."""
        if self._picture is None:
            height, width, _ = frame.shape
            figure = self._pyplot.figure(figsize=(width / 100, height / 100), dpi=100)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.axis("off")
            self._picture = axes.imshow(frame)
            figure.show(warn=False)  # no warning where there is no display
        self._picture.set_data(frame)
        canvas = self._picture.figure.canvas
        canvas.draw_idle()
        canvas.start_event_loop(seconds)

    def close(self) -> None:
        """Close the window; ``show`` opens it again."""
        if self._picture is not None:
            self._pyplot.close(self._picture.figure)
            self._picture = None
