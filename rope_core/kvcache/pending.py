"""Operations that have been planned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rope_core.kvcache.plan import LayerPlan, MovePlan
from rope_core.kvcache.row import Row, Undo
from rope_core.kvcache.table import PageTable


@dataclass(slots=True, eq=False)
class Pending:
    """An operation that has been planned and waits for `commit` or `discard`; one at a time."""

    layers: list[LayerPlan] = field(default_factory=list)
    """Of an append, an attend or a step: a plan for each layer, in the caller's order."""

    moves: MovePlan | None = None
    """Of a select_tail, a compaction or a rebase."""

    appended: list[tuple[Row, Undo]] = field(default_factory=list, repr=False)
    """Tokens that were added to rows."""

    new_lengths: list[tuple[int, Sequence[int], Sequence[int]]] = field(
        default_factory=list, repr=False
    )
    """Layers, rows and their new tokens."""

    allocated: list[tuple[int, PageTable, int]] = field(default_factory=list, repr=False)
    """Group, table and page group of each page that was added at the end of a table."""

    replaced: list[tuple[int, PageTable, int, int]] = field(default_factory=list, repr=False)
    """Group, table, page and former page group, of each page that is copied on write."""

    on_commit: Callable[[], None] | None = field(default=None, repr=False)
    on_discard: Callable[[], None] | None = field(default=None, repr=False)
