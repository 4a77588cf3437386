"""Plain text on standard output."""

import sys


class PipeClosed(Exception):
    """The reader of standard output, such as `head`, has ended."""


def write(text: str) -> None:
    """Write a text to standard output as it is.

    Raises:
        PipeClosed: nobody reads it.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosed from None
