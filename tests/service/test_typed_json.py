"""Long JSON is read by simdjson where it can be: always as `orjson` reads it, errors included."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from rope_core import RopeError
from service.errors import BadTensor, ServiceError
from service.oip.http import codec
from service.oip.infer.models import MODELS
from service.oip.infer.parse import RequestParser
from service.oip.shm.registry import SharedMemoryRegistry
from service.wire import json_codec, typed_json
from tests.service.json_strategies import BODIES, requests

PADDING = " " * 2**14
"""Makes a text long enough to be read by simdjson."""

ROPE = MODELS["rope"]


class Reads:
    """Counts the texts that simdjson read, and can turn it off."""

    def __init__(self) -> None:
        self.enabled, self.num_typed, self._read = True, 0, typed_json.read

    def __call__(self, text: Any, parse: Callable[..., Any]) -> Any:
        parsed = self._read(text, parse) if self.enabled else None
        self.num_typed += parsed is not None
        return parsed


@pytest.fixture(scope="module")
def reads():
    with pytest.MonkeyPatch.context() as patch:
        counted = Reads()
        patch.setattr(typed_json, "read", counted)
        yield counted


@pytest.fixture(autouse=True)
def _reset(reads):
    reads.enabled, reads.num_typed = True, 0


def decode_v1(text: bytes) -> Any:
    message, as_base64 = json_codec.decode(text)
    params = message.params
    return describe(message.tensors), repr(params.values), params.key, as_base64


def decode_v2(text: bytes) -> Any:
    parser = RequestParser(SharedMemoryRegistry(False), 2**20)
    request = codec.decode(ROPE, parser, None, text)
    tensors, params = request.message.tensors, request.message.params
    return request.id, request.plan, describe(tensors), repr(params.values), params.key


def describe(tensors: dict[str, Tensor]) -> list[Any]:
    return [
        (name, tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).tolist())
        for name, tensor in tensors.items()
    ]


def outcome(decode: Callable[[bytes], Any], text: bytes) -> Any:
    try:
        return decode(text)
    except (ServiceError, RopeError) as failure:
        return type(failure), str(failure)


def same_both_ways(reads: Reads, decode: Callable[[bytes], Any], text: str) -> bool:
    """Check that both ways agree about a text, and return whether simdjson read it."""
    body = (text + PADDING).encode()
    before = reads.num_typed
    typed = outcome(decode, body)
    reads.enabled = False
    plain = outcome(decode, body)
    reads.enabled = True
    assert typed == plain
    return reads.num_typed > before


def list_of(shape: list[int], number: str) -> str:
    for size in reversed(shape):
        number = "[" + ", ".join([number] * size) + "]"
    return number


def flat(data: str, dtype: str = "float32", shape: str = "[2]") -> str:
    return f'{{"shape": {shape}, "dtype": "{dtype}", "data": {data}}}'


TYPED = [
    *("[1, 2.5]", "[[1], [2]]", "[[[1, 2]], [[3, 4]]]", "[-0.0, 0.0, -0]", "[1e-400, 5e-324]"),
    *("[9007199254740993, 16777217]", "[18446744073709551615]", "[3.4028235e38]", "[1E5]"),
    *(list_of([1, 2, 1, 2, 1, 2, 1, 3], "7"), "[0.1,0.2 ,\t0.3\n]", "[1.17549435e-38]"),
    *(flat("[1, 2]"), flat("[1, 2]", "float64"), flat("[1, 65504]", "float16")),
    *(flat("[1, 2e38]", "bfloat16"), flat("[-9223372036854775808, 9223372036854775807]", "int64")),
    flat("[-2147483648, 2147483647]", "int32"),
    flat('[1, 2], "dtype": "int32"').replace('"dtype": "float32", ', ""),
]
NOT_TYPED = [
    *("[[1, 2], [3], [4, 5, 6]]", "[1, [2]]", "[[1, [2]], [3, 4]]", "[[1, 2], [[3], 4]]"),
    *("[[1, 2], 3]", "[[1], 2]", "[1, [[2]]]", "[[], [1, 2]]", "[[1, 2], []]", "[]", "[[]]"),
    *("[[[1], [2]], [[3, 4], []]]", '[[1, 2], "ab"]', '[[1, 2], {"a": 1, "b": 2}]', "[{}]"),
    *("[true, false]", "[1, true]", "[1, null]", '["1"]', '[1, "["]', "[[1], [null]]", "[[true]]"),
    *("[18446744073709551616]", "[-9223372036854775809]", "[1e39]", "[1e400]", "[NaN]"),
    *("[1, 2,]", "[01]", "[1.]", "[+1]", "[1 2]", "[1]]", list_of([1] * 9, "1"), "[" * 2000),
    *(flat("[1]"), flat("[[1], [2]]"), flat("[1, 2.0]", "int64"), flat("[1, 1e5]", "float16")),
    *(flat("[1, 2147483648]", "int32"), flat("[true, false]", "bool"), flat("[1, 0]", "bool")),
    *(flat("[9223372036854775808, 1]", "int64"), flat('"AAAA"'), flat("[]", shape="[0]")),
    *('{"data": [1]}', flat("[1]", shape="[1.0]"), flat('[1, 2], "data": [3, 4]')),
]


@pytest.mark.parametrize("name", ["q", "positions", "ключ"])
@pytest.mark.parametrize("value", [*TYPED, *NOT_TYPED], ids=lambda text: text[:40])
def test_a_tensor_is_read_the_same(reads, name, value):
    for rest in ("", ', "rope": {"theta": 1e4, "sections": [1, 2], "-": -0.0}', ', "a": "[["'):
        same_both_ways(reads, decode_v1, f'{{"{name}": {value}{rest}}}')


@pytest.mark.parametrize("value", TYPED, ids=lambda text: text[:40])
def test_numbers_are_read_by_simdjson(reads, value):
    assert same_both_ways(reads, decode_v1, f'{{"q": {value}, "rope": {{"a": [1, [2]]}}}}')


@pytest.mark.parametrize("value", NOT_TYPED, ids=lambda text: text[:40])
def test_what_is_not_a_tensor_of_numbers_is_left_to_orjson(reads, value):
    assert not same_both_ways(reads, decode_v1, f'{{"q": {value}}}')


@pytest.mark.parametrize(
    "text",
    [
        *('{"q": [1], "q": [2]}', '{"q": [[1, [2]]], "rope": "\\u005b"}', '{"rope": {"a": "\\n"}}'),
        *('\ufeff{"q": [1]}', ' {"q": [1]}', "[1]", "", "{", '{"q": [1]} x', '{"q": [1]}\0'),
        *('{"q": [1], "a": "\ud7ff"}', '{"q": [1], "a": "\x1f"}', '{"q": [1], "a": "\\ud800"}'),
        *('{"q": [1], "a": {"b": 1, "b": [2]}}', '{"a": 1, "a": 2}', '{"a": [{"data": [1]}]}'),
        '{"q": {"shape": [1], "dtype": "float32", "data": "AACAPw==", "encoding": "base64"}}',
        '{"q": {"shape": [1], "dtype": "float32", "data": [0], "encoding": "base64"}}',
        '{"k": [[1, [2]], [3, 4]], "v": {"data": [1]}, "q": [[1, 2], "ab"]}',
        '{"k": [[1, [2]], [3, 4]], "v": {"data": [1]}, "q": [[1, 2], {"a": 1, "b": 2}]}',
        '{"q": [1, 2], "rope": ' + '{"a": ' * 300 + "1" + "}" * 301,
        '{"q": [1, 2], "rope": {"a": ' + "[" * 1020 + "]" * 1020 + "}}",
        json.dumps({f"a{i}": i for i in range(100)}),
        json.dumps({f"t{i}": [1] for i in range(17)}),
        json.dumps({"q": [1], "rope": {"a": ["long"] * 20_000}}),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_a_text_is_read_the_same(reads, text):
    same_both_ways(reads, decode_v1, text)
    same_both_ways(reads, decode_v2, text)


def test_a_list_that_a_bracket_in_text_would_hide_is_found(reads):
    """`[1, [2]]` has the count of numbers and of brackets that this text would have without it."""
    text = '{"q": [[1, [2]]], "rope": {"a": "\\u005b"}}'
    assert not same_both_ways(reads, decode_v1, text)
    with pytest.raises(BadTensor):
        json_codec.decode((text + PADDING).encode())


FUZZ = settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_any_text_is_read_the_same(reads):
    counts = [0, 0]

    @FUZZ
    @given(text=BODIES)
    def check(text: str) -> None:
        counts[same_both_ways(reads, decode_v1, text)] += 1

    check()
    assert min(counts) > 20, f"both ways must be met: {counts}"


def test_any_request_of_v2_is_read_the_same(reads):
    counts = [0, 0]

    @FUZZ
    @given(text=requests())
    def check(text: str) -> None:
        counts[same_both_ways(reads, decode_v2, text)] += 1

    check()
    assert min(counts) > 20, f"both ways must be met: {counts}"


def body_of(value: float, length: int = 10_000) -> bytes:
    return json.dumps({"q": [[value] * length]}).encode()


@pytest.mark.parametrize("length", [10_000, 200_000])
def test_tensors_outlive_the_text_that_was_read_next(reads, length):
    """Memory of a parser that is used again does not show in what it read before."""
    tensors = [
        json_codec.decode(body_of(value, length)).message.tensors["q"] for value in (1.5, 2.5, 3.5)
    ]
    assert [tensor.unique().tolist() for tensor in tensors] == [[1.5], [2.5], [3.5]]
    assert reads.num_typed == 3


def test_a_refusal_that_is_kept_does_not_end_the_fast_way(reads):
    """A traceback refers to what the parser has read, and a parser in use reads nothing else."""
    failures = []
    for _ in range(3):
        with pytest.raises(BadTensor) as failure:
            json_codec.decode(b'{"q": {"dtype": "?", "data": [1' + b", 1" * 10_000 + b"]}}")
        failures.append(failure)
    json_codec.decode(body_of(1.5))
    assert reads.num_typed == 1


def test_threads_read_at_the_same_time(reads):
    wrong: list[object] = []

    def read(value: float) -> None:
        for _ in range(50):
            q = json_codec.decode(body_of(value)).message.tensors["q"]
            if not bool((q == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=read, args=(value + 0.5,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert reads.num_typed == 200
