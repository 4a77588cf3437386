"""What a terminal shows and a pipe does not: colours, bars, progress."""

import pytest

from service.cli import frequency_table, progress
from service.cli.app import run
from service.cli.output import THOUSANDS
from tests.waiting import wait_until

SHOW_CURSOR = "\x1b[?25h"
MAGENTA, BLUE = "\x1b[35m", "\x1b[1;34m"


def test_a_terminal_has_colours_and_bars(terminal, monkeypatch):
    monkeypatch.setattr("sys.stdout", terminal.file)
    assert run(["inspect", "llama-3.1-8b"]) == 0
    assert f"{BLUE}29" in terminal.text
    lines = terminal.text.splitlines()
    rows = {line.split()[0]: line for line in lines if "█" in line}
    assert MAGENTA in rows["32"]
    assert BLUE in rows["63"]
    assert MAGENTA not in rows["0"]
    assert rows["63"].count("█") > rows["32"].count("█") > rows["0"].count("█") > 0
    assert any("21 of 64 pairs; --all shows the rest" in line for line in lines)


def test_no_color_has_bars_and_the_names_of_bands(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", terminal.file)
    assert run(["inspect", "llama-3.1-8b"]) == 0
    assert MAGENTA not in terminal.text
    assert BLUE not in terminal.text
    row = next(line for line in terminal.text.splitlines() if line.startswith("  32 "))
    assert "blended" in row
    assert "█" in row


def test_a_narrow_terminal_has_no_bars(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout", terminal.file)
    assert run(["inspect", "llama-3.1-8b"]) == 0
    assert "█" not in terminal.text


@pytest.mark.parametrize("show", [progress.working, lambda text, s: _with_bytes(text, s)])
def test_progress_is_shown_on_a_terminal(terminal, monkeypatch, show):
    monkeypatch.setattr("sys.stderr", terminal.file)
    with show("some work", 0.0):
        wait_until(lambda: "some work" in terminal.text)


def _with_bytes(text, delay_s):
    return progress.progress_of_bytes(text, 10, delay_s)


def test_short_work_shows_no_progress(terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal.file)
    with progress.working("some work", 3600.0):
        pass
    with progress.progress_of_bytes("some work", 10, 3600.0) as advance:
        advance(10)
    assert "some work" not in terminal.text


def test_a_pipe_shows_no_progress(capsys):
    with progress.working("some work", 0.0), progress.progress_of_bytes("x", 1, 0.0) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")


def test_progress_ends_with_an_error(terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal.file)
    shown = progress.working("some work", 0.0)
    shown.__enter__()
    wait_until(lambda: "some work" in terminal.text)
    assert not shown.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert SHOW_CURSOR in terminal.text


@pytest.mark.parametrize("width", [42, 48])
def test_the_last_label_of_the_axis_is_not_lost_at_the_border(width):
    axis = frequency_table._axis(width, width / 7.11)  # of Llama 3.1: 2e7 positions for a turn
    assert axis.split()[0] == "10"
    assert axis.replace(THOUSANDS, " ").endswith("10 M")
    assert len(axis) <= width
