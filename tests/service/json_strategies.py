"""JSON texts of tensors and requests for hypothesis: good ones, and ones with something wrong."""

import json
import math
from typing import Any

from hypothesis import strategies as st

from service.wire.elements import DTYPES

NUMBERS = st.one_of(
    st.integers(-3, 3).map(str),
    st.integers().map(str),
    st.integers(2**63 - 2, 2**64 + 2).map(str),
    st.integers(-(2**63) - 2, -(2**63) + 2).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "-0.0", "1.0", "1e400", "1E-400", "0e0", "NaN", "1" * 400, "0.1e1"]),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
)
STRINGS = st.sampled_from(['""', '"["', '"]"', '"\\u005b"', '"data"', '"ж"', '"a\\n"', '"\\ud800"'])
OTHERS = st.sampled_from(["true", "false", "null", "{}", "[]", '{"data": [1]}']) | STRINGS
SPACES = st.sampled_from(["", "", " ", "\n\t"])


def listed(items: list[str], space: str) -> str:
    return f"[{space}" + f"{space},".join(items) + "]"


def regular(draw: Any, numbers: st.SearchStrategy[str]) -> str:
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4) | st.just([1] * 9))
    count = math.prod(shape)
    items = draw(st.lists(numbers, min_size=count, max_size=count))
    for size in reversed(shape[1:]):
        items = [listed(items[i : i + size], "") for i in range(0, len(items), size or 1)]
        items = items or ["[]"] * math.prod(shape[:1])
    return listed(items, draw(SPACES))


@st.composite
def lists(draw: Any) -> str:
    one_kind = draw(st.sampled_from([NUMBERS, st.integers(-3, 3).map(str), st.just("true")]))
    text = regular(draw, one_kind)
    edit = draw(st.sampled_from([None, None, None, "insert", "delete"]))
    position = draw(st.integers(0, len(text) - 1))
    if edit == "insert":
        piece = draw(st.sampled_from([",[2]", ",2", "[", "]", ",", "[]", "2"]) | OTHERS)
        text = text[:position] + piece + text[position:]
    elif edit == "delete":
        text = text[:position] + text[position + 1 :]
    return text


NESTED = st.recursive(
    NUMBERS | OTHERS,
    lambda values: st.lists(values, max_size=3).map(lambda items: listed(items, "")),
    max_leaves=8,
)
NAMES = st.sampled_from(["q", "k", "x", "positions", "delta", "mask", "rope", "é", "[", "data"])
DTYPE_NAMES = st.sampled_from([*DTYPES, "complex64"])
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(json.dumps) | OTHERS


def objects(names: st.SearchStrategy[str], values: st.SearchStrategy[str], size: int) -> Any:
    """Texts of objects; a name may be there more than once."""
    pairs = st.tuples(names, SPACES, values).map(lambda pair: f'"{pair[0]}"{pair[1]}:{pair[2]}')
    return st.lists(pairs, max_size=size).map(lambda each: "{" + ",".join(each) + "}")


@st.composite
def flat_tensors(draw: Any) -> str:
    items = draw(st.lists(draw(st.sampled_from([NUMBERS, st.integers(0, 1).map(str)])), max_size=4))
    shape = draw(st.just(f"[{len(items)}]") | SHAPES)
    members = [
        f'"shape": {shape}',
        f'"dtype": "{draw(DTYPE_NAMES)}"',
        f'"data": {draw(st.just(listed(items, "")) | lists() | NESTED)}',
        *draw(st.sampled_from([[], [], [], ['"encoding": "base64"'], ['"data": [1]'], ['"x": 1']])),
    ]
    return "{" + ", ".join(draw(st.permutations(members))) + "}"


PARAMS = objects(NAMES, NUMBERS | OTHERS | lists(), 3)
BODIES = objects(NAMES, lists() | lists() | flat_tensors() | PARAMS | NESTED, 4)


DATATYPES = st.sampled_from(["FP32", "FP16", "FP64", "INT64", "INT32", "BOOL"])


@st.composite
def inputs(draw: Any, name: str, shape: list[int]) -> str:
    """Return the text of an input of `/v2`, of which at most one member is wrong."""
    wrong = draw(st.sampled_from(["nothing", "nothing", "name", "datatype", "shape", "data"]))
    number = draw(st.sampled_from([NUMBERS, st.integers(-3, 3).map(str)]))
    count = math.prod(shape)
    members = {
        "name": f'"{name}"',
        "datatype": '"INT64"' if name == "positions" else '"FP32"',
        "shape": json.dumps(shape),
        "data": listed(draw(st.lists(number, min_size=count, max_size=count)), draw(SPACES)),
    }
    if wrong != "nothing":
        others = {
            "name": STRINGS,
            "datatype": DATATYPES.map(json.dumps),
            "shape": SHAPES,
            "data": lists() | NESTED,
        }
        members[wrong] = draw(others[wrong])
    pairs = [f'"{key}": {value}' for key, value in members.items()]
    pairs += draw(st.sampled_from([[], [], [], ['"data": 1'], ['"b": [1]']]))
    return "{" + ", ".join(pairs) + "}"


@st.composite
def requests(draw: Any) -> str:
    items = [draw(inputs("q", [1, 2, 1, 2]))]
    items += draw(st.lists(inputs("positions", [2]), max_size=1))
    items += draw(st.sampled_from([[], [], [], ["1"], ["[1]"]]))
    outputs = ', "outputs": [{"name": "q"}]'
    rest = draw(st.sampled_from(["", "", ', "id": "x"', outputs, ', "a": [1]', ', "b": "["']))
    return f'{{"inputs": {listed(items, "")}, "parameters": {{"theta": 500}}{rest}}}'
