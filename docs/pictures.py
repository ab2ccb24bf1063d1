"""The pictures of the documentation, taken anew: a browser's, a terminal's, a frame.

    python docs/pictures.py runs/demo

``runs/demo`` is a finished run of ``n2n-gym compress``. Needs the extra
"pictures" and Chromium.
"""

from __future__ import annotations

import argparse
import html
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import pexpect
import pyte
from playwright.sync_api import Browser, sync_playwright

from n2n_gym.envs import RemoveEnv

HERE = Path(__file__).parent / "pictures"
COLUMNS, LINES = 92, 40
INK, PAPER = "#d4d4d4", "#1e1e1e"
# The names that pyte gives the sixteen colours, as most terminals paint them.
COLOURS = {
    "black": "#000000",
    "red": "#f14c4c",
    "green": "#23d18b",
    "brown": "#e5e510",
    "blue": "#3b8eea",
    "magenta": "#d670d6",
    "cyan": "#29b8db",
    "white": INK,
}
PROGRAM = [sys.executable, "-c", "from n2n_gym.cli import app; app()"]


class Terminal:
    """A command in a terminal of its own, whose screen can be looked at."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.title = " ".join(["n2n-gym", *arguments])
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
        environment |= {"TERM": "xterm-256color", "COLORTERM": ""}
        self._process = pexpect.spawn(
            PROGRAM[0],
            [*PROGRAM[1:], *arguments],
            dimensions=(LINES, COLUMNS),
            env=environment,
            timeout=None,
        )

    def wait_for(self, text: str, seconds: float) -> None:
        """Until it is on the screen."""
        ends = time.monotonic() + seconds
        while not any(text in line for line in self.screen.display):
            if time.monotonic() > ends or not self._read():
                raise SystemExit(f"{text!r} did not come:\n{self.text()}")

    def press(self, keys: str) -> None:
        for key in keys:
            self._process.send(key)
            ends = time.monotonic() + 1
            while time.monotonic() < ends and self._read():
                pass

    def stop(self) -> None:
        self._process.close(force=True)

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def _read(self) -> bool:
        """Take in what there is; False at the end."""
        try:
            self._stream.feed(self._process.read_nonblocking(65536, timeout=0.2))
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        return True

    def html(self) -> str:
        """The screen as a page."""
        rows = []
        for number in range(LINES):
            line = self.screen.buffer[number]
            cells = [line[column] for column in range(COLUMNS)]
            rows.append("".join(_cell(cell) for cell in cells).rstrip())
        while rows and not rows[-1]:
            rows.pop()
        return (
            f"<body style='margin:0;background:{PAPER};color:{INK}'>"
            f"<div id='it' style='display:inline-block;padding:14px 18px'>"
            f"<pre style='margin:0 0 8px;color:#888;font:14px monospace'>$ "
            f"{html.escape(self.title)}</pre>"
            f"<pre style='margin:0;font:14px/1.25 monospace'>" + "\n".join(rows)
        )


def _cell(cell: pyte.screens.Char) -> str:
    ink = COLOURS.get(cell.fg, INK if cell.fg == "default" else f"#{cell.fg}")
    style = f"color:{ink}" if ink != INK else ""
    style += ";font-weight:bold" if cell.bold else ""
    style += ";text-decoration:underline" if cell.underscore else ""
    text = html.escape(cell.data)
    return f"<span style='{style}'>{text}</span>" if style else text


def take_report(browser: Browser, report: Path) -> None:
    """Wide, narrow and dark."""
    for name, width, scheme in (
        ("wide", 1280, "light"),
        ("narrow", 390, "light"),
        ("dark", 1280, "dark"),
    ):
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page.goto(report.absolute().as_uri())
        page.wait_for_selector("html[data-drawn=yes]")
        page.screenshot(path=HERE / f"report_{name}.png", full_page=name != "dark")
        page.close()


def take_terminal(browser: Browser, terminal: Terminal, name: str) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 900})
    page.set_content(terminal.html())
    page.locator("#it").screenshot(path=HERE / f"{name}.png")
    page.close()
    print(terminal.text())


def take_frame(run: Path) -> None:
    """What ``render_mode="rgb_array"`` draws half way through an episode."""
    env = RemoveEnv("resnet18", "digits", evaluator="size", render_mode="rgb_array")
    env.reset(seed=0)
    for number in range(len(env.decisions) // 2):
        mask = env.action_masks()
        env.step(int(number % 3 == 0 and mask[1]))
    matplotlib.image.imsave(HERE / "frame.png", env.render())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    take_frame(options.run)
    path = shutil.which("chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        take_report(browser, options.run / "report.html")

        terminal = Terminal(["play", "--teacher", "resnet18", "--task", "digits"])
        terminal.wait_for("k keep", 120)
        terminal.press("rkrrkk")
        take_terminal(browser, terminal, "play")
        terminal.stop()

        output = options.run.with_name(f"{options.run.name}-picture")
        shutil.rmtree(output, ignore_errors=True)
        arguments = ["--teacher", "resnet18", "--task", "digits", "--seed", "1"]
        arguments += ["--evaluator", "inherit", "--final-epochs", "6"]
        arguments += ["--output", str(output)]
        terminal = Terminal(["compress", *arguments])
        terminal.wait_for("best students, 6", 1200)  # of twelve, after one round
        take_terminal(browser, terminal, "run")
        terminal.stop()
        shutil.rmtree(output, ignore_errors=True)
        browser.close()


if __name__ == "__main__":
    main()
