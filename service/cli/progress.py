"""Progress of work that takes long, on standard error, if that is a terminal."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.output import error_console

DELAY_S = 1.0
"""Work that ends earlier shows no progress."""


@contextmanager
def working(text: str, delay_s: float = DELAY_S, console: Console | None = None) -> Iterator[None]:
    """Show `text` while the block runs, from `delay_s` on.

    Args:
        text: what the command does.
        delay_s: time after which it is shown.
        console: that of standard error by default.
    """
    console = console or error_console()
    if not console.is_terminal:
        yield
        return
    status = console.status(text)
    timer = threading.Timer(delay_s, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


@contextmanager
def progress_of_bytes(
    text: str, total: int, delay_s: float = DELAY_S, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Show how many bytes are done; yield a function that takes the number of further bytes.

    Args:
        text: what the command does.
        total: number of bytes of all.
        delay_s: time after which the progress is shown.
        console: that of standard error by default.
    """
    console = console or error_console()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    task = bar.add_task(text, total=total)
    timer = threading.Timer(delay_s, bar.start)
    timer.daemon = True
    if console.is_terminal:
        timer.start()
    try:
        yield lambda num_bytes: bar.advance(task, num_bytes)
    finally:
        if console.is_terminal:
            timer.cancel()
            timer.join()
        bar.stop()
