"""Progress of work that takes long, on standard error, if that is a terminal.

rich is imported only for a terminal: that takes longer than `--help` without it.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY_S = 1.0
"""Work that ends earlier shows no progress."""


@contextmanager
def working(text: str, delay_s: float = DELAY_S) -> Iterator[None]:
    """Show `text` while the block runs, from `delay_s` on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    status = Console(stderr=True).status(text)
    try:
        with _after(delay_s, status.start):
            yield
    finally:
        status.stop()


@contextmanager
def progress_of_bytes(
    text: str, total: int, delay_s: float = DELAY_S
) -> Iterator[Callable[[int], None]]:
    """Show how many bytes are done; yield a function that takes the number of further bytes.

    Args:
        text: what the command does.
        total: number of bytes of all.
        delay_s: time after which the progress is shown.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(text, total=total)
    try:
        with _after(delay_s, bar.start):
            yield lambda num_bytes: bar.advance(task, num_bytes)
    finally:
        bar.stop()


@contextmanager
def _after(delay_s: float, start: Callable[[], None]) -> Iterator[None]:
    """Call `start` if the block runs longer than `delay_s`."""
    timer = threading.Timer(delay_s, start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
