"""Repeats of appends by digest, and of operations by op_id; guards."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import ConfigError
from service.sessions.errors import SessionConflict
from service.sessions.lifetime.repeats import (
    MAX_OP_IDS,
    Repeats,
    append_digest,
    fingerprint_of,
    payload_digest,
)
from service.sessions.requests.guard import check_append, check_guard

K, V, POSITIONS = b"k" * 64, b"v" * 64, struct.pack("<2q", 5, 6)


def digest_of(start, *payload):
    return append_digest(start, payload_digest(*payload))


def test_what_the_digest_covers():
    digests = [
        digest_of(5, K, V, None),
        digest_of(5, K, V, POSITIONS),
        digest_of(5, K, V, struct.pack("<2q", 5, 7)),
        digest_of(6, K, V, None),
        digest_of(5, V, K, None),
        digest_of(5, K[:32], V[:32], None),
        digest_of(5, K, V, b""),
    ]
    assert len({*digests}) == len(digests)
    assert all(len(digest) == 24 for digest in digests)
    assert digest_of(5, memoryview(K), bytearray(V), None) == digests[0]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**12),
            st.binary(min_size=4, max_size=4),
            st.binary(min_size=4, max_size=4),
            st.none() | st.binary(min_size=8, max_size=8),
        ),
        unique=True,
        min_size=2,
        max_size=20,
    )
)
def test_other_appends_have_other_digests(appends):
    assert len({digest_of(*append) for append in appends}) == len(appends)


def test_the_last_append_of_each_layer_and_row():
    repeats = Repeats()
    repeats.record(0, [0, 2], [b"a", b"b"], 0)
    assert repeats.is_repeat(0, [0, 2], [b"a", b"b"], 0)
    assert repeats.is_repeat(0, [2], [b"b"], 0)
    assert not repeats.is_repeat(0, [0, 2], [b"a", b"c"], 0), "equal in every row"
    assert not repeats.is_repeat(0, [0, 1], [b"a", b"b"], 0)
    assert not repeats.is_repeat(1, [0], [b"a"], 0)
    repeats.record(0, [0], [b"d"], 0)
    assert not repeats.is_repeat(0, [0, 2], [b"a", b"b"], 0)
    assert repeats.is_repeat(0, [0, 2], [b"d", b"b"], 0)


def test_rows_without_new_tokens_keep_their_digest():
    repeats = Repeats()
    repeats.record(0, [0, 1], [b"a", b"b"], 0)
    repeats.record(0, [0, 1], [b"c", None], 0)
    assert repeats.is_repeat(0, [0, 1], [b"c", None], 0)
    assert repeats.is_repeat(0, [1], [b"b"], 0)
    assert append([3, 7], [5, 7], [2, 0]) is True
    assert append([5, 7], [5, 7], [0, 0]) is False


def test_digests_are_forgotten_when_the_generation_rises():
    repeats = Repeats()
    repeats.record(0, [0, 1], [b"a", b"b"], 0)
    assert not repeats.is_repeat(0, [0], [b"a"], 1)
    repeats.record(0, [0], [b"c"], 1)
    assert repeats.is_repeat(0, [0], [b"c"], 1)
    assert not repeats.is_repeat(0, [1], [b"b"], 1)


def append(expected, lengths, num_new, *, repeats=True, rows=None, generation=None):
    rows = [*range(len(lengths))] if rows is None else rows
    return check_append(
        expected,
        generation,
        layer=3,
        rows=rows,
        num_new=num_new,
        length=lengths,
        generation=7,
        is_repeat=lambda starts: repeats,
    )


def test_the_guard_decides_before_the_repeat():
    assert append(5, [5], [2]) is False, "an append, even if its digest equals the last one"
    assert append(3, [5], [2]) is True
    for expected, num_new in ((3, 3), (4, 2), (6, 1), (7, 2)):
        with pytest.raises(SessionConflict):
            append(expected, [5], [num_new])
    with pytest.raises(SessionConflict):
        append(3, [5], [2], repeats=False)
    assert append(None, [5], [2]) is False


def test_rows():
    assert append([5, 7], [5, 7], [1, 2]) is False
    assert append(5, [5, 5], [1, 2]) is False
    assert append([4, 5], [5, 7], [1, 2]) is True
    assert append([7], [5, 7], [2], rows=[1]) is False
    assert append([5, 7], [7, 5], [2, 2], rows=[1, 0]) is False
    with pytest.raises(SessionConflict):
        append([5, 5], [5, 7], [1, 2])  # one row would be appended, the other is there
    with pytest.raises(ConfigError, match="expected_length"):
        append([5], [5, 7], [1, 2])


def test_the_generation_is_checked_first():
    assert append(5, [5], [1], generation=7) is False
    for expected in (5, 4, 9, None):
        with pytest.raises(SessionConflict, match="generation") as raised:
            append(expected, [5], [1], generation=6)
        members = {"layer": 3, "length": [5], "generation": 7}
        members |= {} if expected is None else {"expected": [expected]}
        assert raised.value.members == members


def test_a_conflict_tells_the_lengths():
    with pytest.raises(SessionConflict) as raised:
        append([9, 1], [5, 7], [1, 1])
    assert raised.value.members == {
        "layer": 3,
        "expected": [9, 1],
        "length": [5, 7],
        "generation": 7,
    }
    with pytest.raises(SessionConflict) as raised:
        append(0, [5] * 1024, [1] * 1024)
    assert len(str(raised.value)) < 200


def test_the_guard_of_all_layers():
    def check(expected_length=None, expected_generation=None):
        check_guard(expected_length, expected_generation, length=[5, 7], generation=2)

    check()
    check([5, 7], 2)
    for wrong in ((5, None), ([5, 6], 2), ([5, 7], 1), (None, 3)):
        with pytest.raises(SessionConflict):
            check(*wrong)
    with pytest.raises(ConfigError):
        check([5])


def test_answers_by_op_id():
    repeats, first = Repeats(), fingerprint_of("evict", {"start": 1, "stop": 2})
    assert repeats.answer_to("a", first) is None
    repeats.remember("a", first, {"length": [5], "generation": 1})
    assert repeats.answer_to("a", first) == {"length": [5], "generation": 1}
    for operation, params in (("evict", {"start": 1}), ("shift", {"start": 1, "stop": 2})):
        with pytest.raises(ConfigError, match="op_id"):
            repeats.answer_to("a", fingerprint_of(operation, params))
    assert repeats.answer_to("b", first) is None


def test_the_last_sixteen_op_ids_are_kept():
    repeats = Repeats()
    for i in range(MAX_OP_IDS + 3):
        repeats.remember(f"{i}", b"", {"length": [i]})
    kept = [i for i in range(MAX_OP_IDS + 3) if repeats.answer_to(f"{i}", b"") is not None]
    assert kept == [*range(3, MAX_OP_IDS + 3)]


@pytest.mark.parametrize("op_id", ["", "x" * 65, 5, None, ["a"]])
def test_op_ids_that_are_not_valid(op_id):
    with pytest.raises(ConfigError, match="op_id"):
        Repeats().answer_to(op_id, b"")


def test_the_fingerprint_is_of_the_operation_and_not_of_the_message():
    first = fingerprint_of("evict", {"start": 1, "stop": [2, 3], "expected_length": 5})
    again = {"expected_length": 5, "stop": [2, 3], "start": 1, "op_id": "a", "seq": 9}
    assert fingerprint_of("evict", {**again, "session": "x"}) == first
    assert fingerprint_of("evict", {**again, "start": "1"}) != first


class Model:
    """A session of one layer that appends what it is told, as a client and a server see it."""

    def __init__(self, rows: int) -> None:
        self.lengths = [0] * rows
        self.generation = 0
        self.repeats = Repeats()
        self.tokens: list[list[bytes]] = [[] for _ in range(rows)]

    def append(self, rows, payloads, expected, generation):
        def digests(starts):
            return [
                digest_of(start, b"".join(payload), b"", None)
                for start, payload in zip(starts, payloads, strict=True)
            ]

        is_repeat = check_append(
            expected,
            generation,
            layer=0,
            rows=rows,
            num_new=[len(payload) for payload in payloads],
            length=self.lengths,
            generation=self.generation,
            is_repeat=lambda starts: self.repeats.is_repeat(
                0, rows, digests(starts), self.generation
            ),
        )
        if not is_repeat:
            starts = [self.lengths[row] for row in rows]
            for row, payload in zip(rows, payloads, strict=True):
                self.tokens[row] += payload
                self.lengths[row] += len(payload)
            self.repeats.record(0, rows, digests(starts), self.generation)

    def truncate(self, length):
        self.tokens = [tokens[:length] for tokens in self.tokens]
        self.lengths = [len(tokens) for tokens in self.tokens]
        self.generation += 1


@settings(max_examples=200)
@given(st.data())
def test_a_retried_append_happens_once(data):
    """Answers are lost and requests sent again, in any number; another writer truncates between."""
    model, rows = Model(2), [0, 1]
    expected_tokens: list[list[bytes]] = [[], []]
    lengths, generation = [0, 0], 0
    for _ in range(data.draw(st.integers(1, 12))):
        sizes = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))
        payloads = [
            [data.draw(st.binary(min_size=1, max_size=1)) for _ in range(size)] for size in sizes
        ]
        for _ in range(data.draw(st.integers(1, 3))):
            model.append(rows, payloads, lengths, generation)
        for row in rows:
            expected_tokens[row] += payloads[row]
        assert model.tokens == expected_tokens
        if data.draw(st.booleans()):
            # another writer cuts, and appends to the same length: a late retry is refused
            other = [[b"?"] * size for size in sizes]
            model.truncate(0)
            model.append(rows, [[b"?"] * n for n in model_lengths(lengths, other)], [0, 0], None)
            with pytest.raises(SessionConflict):
                model.append(rows, payloads, lengths, generation)
            expected_tokens = [[*tokens] for tokens in model.tokens]
            generation = model.generation
        lengths = [*model.lengths]


def model_lengths(lengths, payloads):
    """Lengths after the payloads."""
    return [length + len(payload) for length, payload in zip(lengths, payloads, strict=True)]
