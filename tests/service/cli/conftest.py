"""Run commands in this process, with pipes or with a pseudo-terminal."""

import os
import pty
from collections.abc import Callable
from typing import NamedTuple

import pytest

from service.cli.app import run


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command whose output is a pipe."""

    def run_command(*arguments: object) -> Ended:
        try:
            code = run([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        return Ended(code, *capsys.readouterr())

    return run_command


class Terminal:
    """A pseudo-terminal that stands for a stream."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self._text = b""

    @property
    def text(self) -> str:
        """What was written so far."""
        self.file.flush()
        try:
            while piece := os.read(self._master, 2**16):
                self._text += piece
        except BlockingIOError:
            pass
        return self._text.decode(errors="replace")

    def close(self) -> None:
        self.file.close()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """A terminal of 100 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    made = Terminal()
    yield made
    made.close()
