"""What the tests print that are run by hand, outside of pytest."""

import sys


def check(is_met: bool, condition: str) -> None:
    """End the process with the words of a condition if it is not met."""
    if not is_met:
        raise SystemExit(f"test FAILED: {condition}")


def print_line(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
