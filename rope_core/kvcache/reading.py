"""Keys that the queries of a row may see."""

from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.errors import RolledPast
from rope_core.kvcache.plan import KeySegment
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment


def key_segments(
    row: Row, group: KVGroup, group_number: int, length: int, least_index: int
) -> list[KeySegment]:
    """Return the first `length` keys of a row that queries may see.

    Pages that no query from `least_index` on sees, because of the window or the chunk, are left
    out.

    Raises:
        RolledPast: a page that such a query sees is gone.
    """
    first_visible = group.first_visible(least_index) if group.hides_old_keys else None
    keys = []
    place = 0
    for segment in row.segments:
        num_keys = min(segment.num_tokens, length - place)
        if num_keys <= 0:
            break
        table = segment.tables[group_number]
        if first_visible is None:
            keys.append(
                KeySegment(
                    table.kept, segment.first_slot, num_keys, place, segment.index, segment.shift
                )
            )
        elif segment.index + num_keys > first_visible:
            keys.append(_from_visible(segment, row, group_number, num_keys, place, first_visible))
        place += num_keys
    return keys


def check_not_gone(segments: list[Segment], groups: tuple[KVGroup, ...], page_tokens: int) -> None:
    """Raise RolledPast if a query at the last of the segments' tokens sees a page that is gone."""
    if not segments:
        return
    last_index = segments[-1].index + segments[-1].num_tokens - 1
    for number, group in enumerate(groups):
        if not group.is_windowed:
            continue
        first_visible = group.first_visible(last_index)
        for segment in segments:
            num_gone = segment.num_gone(number, page_tokens)
            if num_gone and segment.index + num_gone > first_visible:
                raise rolled_past(number)


def rolled_past(group_number: int) -> RolledPast:
    """Return the error for a page of a group that is gone."""
    return RolledPast(
        f"the window of group {group_number} has moved on, and its older pages have been freed"
    )


def _from_visible(
    segment: Segment,
    row: Row,
    group_number: int,
    num_keys: int,
    place: int,
    first_visible: int,
) -> KeySegment:
    page_tokens = row.page_tokens
    table = segment.tables[group_number]
    if segment.index + segment.num_gone(group_number, page_tokens) > max(
        first_visible, segment.index
    ):
        raise rolled_past(group_number)
    hidden = max(0, first_visible - segment.index)
    page = (segment.first_slot + hidden) // page_tokens
    skipped = max(0, page * page_tokens - segment.first_slot)
    return KeySegment(
        table.kept[page - table.gone :],
        segment.first_slot if page == 0 else 0,
        num_keys - skipped,
        place + skipped,
        segment.index + skipped,
        segment.shift,
    )
