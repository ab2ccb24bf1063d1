"""Bars of progress: one display in a terminal, tqdm's elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from n2n_gym.common import progress as module
from n2n_gym.common.progress import one_display, progress

PROGRAM = """
import logging, time
from n2n_gym.common.progress import one_display, progress
logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
with one_display():
    with progress(3, "Training [a] teacher", is_long=True) as bar:
        for step in range(3):
            bar.update()
            bar.set_postfix_str(f"validation {step}")
            time.sleep(0.4)
    with progress(2_000_000, "Reading", "B", is_long=True, initial=500_000) as bar:
        logging.warning("said beside a bar")
        bar.update(1_500_000)
    with progress(9, "Short work") as bar:
        bar.update(9)
    with progress(9, "Gone", is_long=True, is_kept=False) as bar:
        time.sleep(0.4)
    try:
        with progress(4, "Stopped", is_long=True) as bar:
            bar.update()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
logging.warning("said after all")
"""


def in_a_terminal(columns: int = 80, **environment: str) -> list[str]:
    """The lines that the program writes there, a bar's again each time it moves."""
    main, other = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("TQDM_DISABLE", "CI")}
    settings = {"TERM": "xterm", "COLUMNS": str(columns), **environment}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**kept, **settings},
    ):
        os.close(other)
        written = b""
        try:
            while part := os.read(main, 1 << 16):
                written += part
        except OSError:  # how a terminal says that nobody is left
            pass
    os.close(main)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_in_a_terminal_each_bar_leaves_a_line_and_what_is_logged_is_whole():
    written = in_a_terminal()
    assert "✓ Training [a] teacher: 3/3 in 1 s, validation 2" in written
    assert "✓ Reading: 2.0 MB/2.0 MB in 0 s" in written
    assert "- Stopped: 1/4 in 0 s" in written
    assert not [line for line in written if "Short work" in line]
    assert [line for line in written if "Gone" in line and "✓" not in line]
    assert not [line for line in written if "Gone" in line and "✓" in line]
    assert "WARNING: said beside a bar" in written
    assert written[-1] == "WARNING: said after all"


@pytest.mark.parametrize("columns", [40, 80])
def test_a_bar_fits_its_terminal(columns):
    lines = in_a_terminal(columns)
    assert [line for line in lines if "Training" in line and "━" in line]
    assert max(map(len, lines)) <= columns


def test_quiet_is_without_bars():
    written = in_a_terminal(TQDM_DISABLE="1")
    assert written == ["WARNING: said beside a bar", "WARNING: said after all"]


def test_elsewhere_bars_are_tqdms():
    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment
    )
    assert result.stdout == ""
    assert "Training [a] teacher: 100%|" in result.stderr
    assert "WARNING: said beside a bar" in result.stderr


def test_a_count_goes_on_where_it_was():
    with one_display(), progress(10, "", initial=4, is_long=True) as bar:
        bar.update(3)
        assert bar.total == 10
    assert module._display is None
