"""JSON objects whose lists of numbers are read as arrays, without a Python object for each number.

A text that is read here has the result of `orjson`. Any other text raises `NotTyped`, and so does a
list that cannot be a tensor: `orjson` reads it again, so that errors for clients are in one place.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import accumulate, chain
from operator import mul
from typing import Any, Literal, TypeVar

import numpy as np
import simdjson

from service.wire.message import Buffer

T = TypeVar("T")

_MIN_BYTES = 2**13  # `orjson` reads a shorter text in less time
_MIN_LIST_BYTES = 32  # `orjson` reads many short lists in less time and memory

_MAX_AXES = 8
_MAX_SIZE = 2**24 - 2  # simdjson counts no further
_MAX_MEMBERS = 64  # simdjson searches all members for each name
_MAX_PLAIN_BYTES = 2**16  # `orjson` takes less memory for many small values

_MAX_REUSED_BYTES = 2**18  # a parser keeps 14 bytes for each byte of its longest text
_idle_parsers: deque[simdjson.Parser] = deque()

_KINDS: dict[str, Literal["d", "i"]] = {"d": "d", "q": "i"}
"""simdjson's names of the codes of `struct`."""


class NotTyped(Exception):
    """The text must be read by `orjson`."""


class Numbers:
    """A regular nested list of numbers, not empty; `shape` has the sizes of its axes.

    `Document.check_lists` completes the check: until then an element may be a list of any depth.
    """

    __slots__ = ("_array", "shape")

    def __init__(self, array: simdjson.Array) -> None:
        self._array = array
        self.shape: list[int] = []
        first: object = array
        while isinstance(first, simdjson.Array):
            self.shape.append(len(first))
            if not 0 < len(first) <= _MAX_SIZE or len(self.shape) > _MAX_AXES:
                raise NotTyped
            first = first[0]
        for axis, size in enumerate(self.shape):
            lists: Iterable[Any] = (array,)
            for _ in range(axis):  # one list after another: objects for all would take much memory
                lists = chain.from_iterable(lists)
            try:
                lengths = set(map(simdjson.Array.__len__, lists))
            except TypeError:  # an element that is not a list
                raise NotTyped from None
            if lengths != {size}:
                raise NotTyped

    def __len__(self) -> int:
        """Return how many numbers these are."""
        return math.prod(self.shape)

    @property
    def num_lists(self) -> int:
        """How many lists hold these numbers, the outermost included."""
        return sum(accumulate(self.shape[:-1], mul, initial=1))

    def pack(self, code: str) -> Buffer:
        """Return the bytes of all numbers as `struct.pack` does: float64 for `d`, int64 for `q`.

        Raises:
            NotTyped: the code is another, or a number is not of its type or range.
        """
        try:
            return self._array.as_buffer(of_type=_KINDS[code])
        except (KeyError, TypeError, ValueError):
            raise NotTyped from None


class Document:
    """A JSON object that was parsed, and a count of its lists that were not read yet."""

    def __init__(self, root: object, num_lists: int) -> None:
        self.root = root
        self._num_unread = num_lists

    def members(self, parent: object) -> dict[str, Any]:
        """Return the members of an object by name; lists and objects are not read yet."""
        if not isinstance(parent, simdjson.Object) or len(parent) > _MAX_MEMBERS:
            raise NotTyped
        members = {name: parent[name] for name in parent}
        if len(members) != len(parent):  # of two members of one name simdjson finds the first
            raise NotTyped
        return members

    def tensors(self, array: simdjson.Array) -> list[dict[str, Any]]:
        """Return the objects of a list by `tensor`."""
        if len(array) > _MAX_MEMBERS:
            raise NotTyped
        self._num_unread -= 1
        return [self.tensor(item) for item in array]

    def tensor(self, parent: object) -> dict[str, Any]:
        """Return the members of an object; a list `data` is read as `Numbers`."""
        members = self.members(parent)
        for name, value in members.items():
            is_data = name == "data" and isinstance(value, simdjson.Array)
            members[name] = self.numbers(value) if is_data else self.plain(value)
        return members

    def numbers(self, array: simdjson.Array) -> Numbers:
        """Return a list as numbers."""
        numbers = Numbers(array)
        self._num_unread -= numbers.num_lists
        return numbers

    def plain(self, value: Any) -> Any:
        """Return a value as `orjson` reads it."""
        if not isinstance(value, simdjson.Array | simdjson.Object):
            return value
        text: Any = value.mini  # bytes, though its stub says text
        if len(text) > _MAX_PLAIN_BYTES:
            raise NotTyped
        self._num_unread -= text.count(b"[")
        return value.as_list() if isinstance(value, simdjson.Array) else value.as_dict()

    def check_lists(self) -> None:
        """Check that all lists of the text were read, so that no number is a list.

        Raises:
            NotTyped: a list was not read, or a bracket is part of a string.
        """
        if self._num_unread:
            raise NotTyped


def read(text: Buffer, parse: Callable[[Document], T]) -> T | None:
    """Return what `parse` makes of a JSON object, None where `orjson` must read the text.

    `parse` may raise `NotTyped`. Nothing that it returns may refer to the document.
    """
    if len(text) < _MIN_BYTES:
        return None
    text = bytes(text)
    # simdjson skips a byte order mark; lists cannot be counted where brackets may be escaped
    if not text.startswith(b"{") or b"\\" in text:
        return None
    num_lists = int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("[")))
    if num_lists * _MIN_LIST_BYTES > len(text):
        return None
    is_long = len(text) > _MAX_REUSED_BYTES
    parser = simdjson.Parser() if is_long else _lease_parser()
    try:
        root = parser.parse(text)
    except (ValueError, RuntimeError):  # not JSON, nested too deep, or a large integer
        return None
    try:
        parsed = parse(Document(root, num_lists))
    except NotTyped:
        parsed = None
    del root  # a parser cannot be used while something refers to what it read
    if not is_long:
        _idle_parsers.append(parser)
    return parsed


def _lease_parser() -> simdjson.Parser:
    try:
        return _idle_parsers.pop()
    except IndexError:
        return simdjson.Parser()
