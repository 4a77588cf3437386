"""Guards: an operation names the length and the generation that it expects."""

from collections.abc import Callable, Sequence

from rope_core import ConfigError
from service.sessions.errors import SessionConflict


def check_guard(
    expected_length: int | Sequence[int] | None,
    expected_generation: int | None,
    *,
    length: Sequence[int],
    generation: int,
) -> None:
    """Check the guard of an operation on all layers.

    Args:
        expected_length: a number for all rows, or one for each row; None: not guarded.
        expected_generation: None: not guarded.
        length: of each row of the session.
        generation: of the session.

    Raises:
        SessionConflict: the session is in another state.
        ConfigError: the list has another number of rows.
    """
    expected = per_row("expected_length", expected_length, len(length))
    _check_generation(expected_generation, expected, length, generation)
    if expected is not None and expected != [*length]:
        raise conflict(expected, length, generation)


def check_append(
    expected_length: int | Sequence[int] | None,
    expected_generation: int | None,
    *,
    layer: int,
    rows: Sequence[int],
    num_new: Sequence[int],
    length: Sequence[int],
    generation: int,
    is_repeat: Callable[[Sequence[int]], bool],
    lengths: Sequence[Sequence[int]] | None = None,
) -> bool:
    """Check the guard of an append or a step of one layer; return whether it repeats the last one.

    Args:
        expected_length: a number for all rows of `rows`, or one for each; None: not guarded.
        expected_generation: None: not guarded.
        layer: index of the layer.
        rows: rows of the append.
        num_new: new tokens of each row of `rows`.
        length: of the layer, of all rows of the session.
        generation: of the session.
        is_repeat: whether the payload is that of the last append, given the length of each row of
            `rows` before that append; called only if the lengths fit.
        lengths: `length` of each layer of a request that has a list of them, for the error.

    Raises:
        SessionConflict: the session is in another state.
        ConfigError: the list has another number of rows.
    """
    expected = per_row("expected_length", expected_length, len(rows))
    more: dict[str, object] = {"layer": layer}
    if lengths is not None:
        more["lengths"] = [*lengths]
    _check_generation(expected_generation, expected, length, generation, **more)
    if expected is None:
        return False
    now = [length[row] for row in rows]
    if expected == now:
        return False
    after = [start + n for start, n in zip(expected, num_new, strict=True)]
    if after == now and is_repeat(expected):
        return True
    raise conflict(expected, length, generation, **more)


def per_row(parameter: str, numbers: int | Sequence[int] | None, num_rows: int) -> list[int] | None:
    """Return a number for each row.

    Raises:
        ConfigError: the list has another number of rows.
    """
    if numbers is None:
        return None
    if isinstance(numbers, int):
        return [numbers] * num_rows
    if len(numbers) != num_rows:
        raise ConfigError(parameter, f"a number, or a list of {num_rows}", len(numbers))
    return [*numbers]


def conflict(
    expected: Sequence[int], length: Sequence[int], generation: int, **more: object
) -> SessionConflict:
    """Return the error of a session that has other lengths."""
    text = f"the session has other lengths than expected: {_few(length)}, not {_few(expected)}"
    return SessionConflict(text, length=length, generation=generation, expected=expected, **more)


def _check_generation(
    expected_generation: int | None,
    expected: Sequence[int] | None,
    length: Sequence[int],
    generation: int,
    **more: object,
) -> None:
    if expected_generation is not None and expected_generation != generation:
        text = f"the session has generation {generation}, not {expected_generation}: it was changed"
        if expected is not None:
            more["expected"] = expected
        raise SessionConflict(text, length=length, generation=generation, **more)


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"[{shown}, ...]" if len(numbers) > 8 else f"[{shown}]"
