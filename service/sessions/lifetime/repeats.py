"""Recognise repeats: an append or an operation that was sent again because its answer was lost."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from xxhash import xxh3_128

from rope_core import ConfigError

MAX_OP_IDS = 16
"""Operations that a session remembers."""

MAX_OP_ID_CHARS = 64
"""Length of the longest op_id."""

_NOT_IN_FINGERPRINT = frozenset(("op_id", "seq", "session"))
"""Parameters that may differ in a repeat: they name the message, not the operation."""

Buffer = bytes | bytearray | memoryview
"""The elements of a tensor, contiguous; anything else with the buffer protocol works as well."""


def append_digest(start: int, payload: bytes) -> bytes:
    """Return the digest of an append to one row of one layer, 24 bytes.

    Args:
        start: length of the row before the append.
        payload: `payload_digest` of what is appended.
    """
    return start.to_bytes(8, "little") + payload


def payload_digest(k: Buffer, v: Buffer, positions: Buffer | None) -> bytes:
    """Return the digest of what is appended to one row of one layer, 16 bytes.

    Args:
        k: new keys as they were sent, `[n, Hkv, D]` in the session's dtype.
        v: new values, `[n, Hkv, Dv]`.
        positions: int64, `[n]` or `[A, n]`; None if the request has none, which is another append
            than one with the same positions written out.
    """
    state = xxh3_128(k)
    state.update(v)
    if positions is not None:
        state.update(positions)
        state.update(b"positions")
    return state.digest()


def fingerprint_of(operation: str, params: Mapping[str, Any]) -> bytes:
    """Return the digest of an operation and its parameters, for its op_id."""
    covered = {name: value for name, value in params.items() if name not in _NOT_IN_FINGERPRINT}
    text = json.dumps([operation, covered], sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).digest()


class _Answered(NamedTuple):
    """An operation that has succeeded."""

    fingerprint: bytes
    answer: Mapping[str, Any]


class Repeats:
    """What a session remembers of its last operations. For the event loop's thread.

    Of each layer and row: the digest of the last append, forgotten when the generation rises. Of
    the last 16 operations with an op_id: the answer.
    """

    __slots__ = ("_answers", "_digests", "_generation")

    def __init__(self) -> None:
        self._generation = 0
        self._digests: dict[tuple[int, int], bytes] = {}
        """By layer and row."""
        self._answers: dict[str, _Answered] = {}
        """By op_id, oldest first."""

    def is_repeat(
        self, layer: int, rows: Sequence[int], digests: Sequence[bytes | None], generation: int
    ) -> bool:
        """Return whether an append equals the last one of its layer in every row.

        Args:
            layer: index of the layer.
            rows: indices of the rows.
            digests: `append_digest` of each row, with the length before the append that may be
                repeated; None: the row gets no token, so it fits and is not recorded.
            generation: of the session now.
        """
        if generation != self._generation:
            return False
        last = self._digests
        return all(
            digest is None or last.get((layer, row)) == digest
            for row, digest in zip(rows, digests, strict=True)
        )

    def record(
        self, layer: int, rows: Sequence[int], digests: Sequence[bytes | None], generation: int
    ) -> None:
        """Remember an append that has been committed; arguments as in `is_repeat`."""
        if generation != self._generation:
            self._digests.clear()
            self._generation = generation
        last = self._digests
        for row, digest in zip(rows, digests, strict=True):
            if digest is not None:
                last[layer, row] = digest

    def answer_to(self, op_id: str, fingerprint: bytes) -> Mapping[str, Any] | None:
        """Return the answer that an operation got; None: no operation had this op_id.

        Ask before the guard is checked: the operation itself has raised the generation.

        Raises:
            ConfigError: the op_id is not valid, or another operation had it.
        """
        check_op_id(op_id)
        answered = self._answers.get(op_id)
        if answered is None:
            return None
        if answered.fingerprint != fingerprint:
            expected = "another for each operation of the session"
            raise ConfigError("op_id", expected, "that of another operation or other parameters")
        return answered.answer

    def remember(self, op_id: str, fingerprint: bytes, answer: Mapping[str, Any]) -> None:
        """Remember the answer to an operation that has succeeded, without tensors."""
        self._answers[op_id] = _Answered(fingerprint, answer)
        if len(self._answers) > MAX_OP_IDS:
            del self._answers[next(iter(self._answers))]


def check_op_id(op_id: object) -> None:
    """Raise ConfigError if an op_id is not a text of 1 to 64 characters."""
    if not isinstance(op_id, str) or not 1 <= len(op_id) <= MAX_OP_ID_CHARS:
        got = f"{len(op_id)} characters" if isinstance(op_id, str) else type(op_id).__name__
        raise ConfigError("op_id", f"a text of 1 to {MAX_OP_ID_CHARS} characters", got)
