"""How much a search may do: a count, so that every machine finds the same."""

from dataclasses import dataclass

MOST = 7000.0
"""Rows of angles that a search computes before it makes no more pairs of mistakes."""

LONG = 4096
"""Angles that take as long as what else a row of angles needs."""


@dataclass(slots=True)
class Work:
    """Counts the rows of angles that a search computes."""

    done: float = 0.0

    def add(self, angles: int) -> None:
        """Count one row."""
        self.done += 1 + angles / LONG

    @property
    def is_left(self) -> bool:
        """Whether the search may go on."""
        return self.done < MOST
