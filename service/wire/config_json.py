"""JSON texts in which a model's config may have `NaN`, `Infinity` and `-Infinity`.

Python's json writes these into a config.json. JSON has no such numbers, and `orjson` refuses them.
A text that `orjson` refuses is read again: a config with such a number is cut out, read by Python's
json, and put back into what `orjson` reads of the rest. Elsewhere the numbers stay refused.
"""

import json
import math
import re
import secrets
from collections.abc import Collection
from typing import Any, NamedTuple

import orjson

from service.wire.message import Buffer, NonFinite

Path = tuple[str, ...]
"""Names of the members that lead to a config."""

IN_PARAMS: Collection[Path] = (("rope", "config"), ("to", "config"), ("other", "config"))
"""Where the parameters of a request have configs."""

IN_ROPE: Collection[Path] = (("config",),)
"""Where a rope has its config."""

_CONFIG = re.compile(r'"config"\s*:\s*(?=\{)')
_SPACE = " \t\r\n"

MAX_READ = 16
"""Most objects named `config`, none within another, that are read in one text. A request has two
at most; the others are members that it must not have."""

_BYTE_ORDER_MARK = "\ufeff"

_PLACEHOLDERS = tuple(secrets.token_hex(3) for _ in IN_PARAMS)
"""Texts that stand for configs. No client knows them. With quotes they are as long as `{"":NaN}`,
the shortest config with such a number."""


class CutText(NamedTuple):
    """A text without its configs."""

    text: bytes
    """Placeholders and spaces stand for the configs, so that all else keeps its place."""
    configs: list[dict[str, Any]]
    original: str

    def locate(self, error: orjson.JSONDecodeError) -> orjson.JSONDecodeError:
        """Return an error of `text` with the line and column of the original."""
        return orjson.JSONDecodeError(error.msg, self.original, error.pos)

    def put_back(self, document: Any, paths: Collection[Path]) -> bool:
        """Put the configs into what was read from `text`.

        Return False if a config was at none of `paths`.
        """
        left = dict(zip(_PLACEHOLDERS, self.configs, strict=False))
        for *names, last in paths:
            parent = document
            for name in names:
                parent = parent.get(name) if isinstance(parent, dict) else None
            if isinstance(parent, dict) and isinstance(key := parent.get(last), str):
                parent[last] = left.pop(key, key)
        return not left


class _Config(NamedTuple):
    members: dict[str, Any]
    end: int  # index of the character behind it


def loads(text: Buffer | str, paths: Collection[Path]) -> Any:
    """Return the value of a JSON text whose configs are at `paths`.

    Raises:
        orjson.JSONDecodeError: the text is not valid JSON, or a number elsewhere is not finite.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        failure = error
    cut = cut_configs(text.encode() if isinstance(text, str) else text)
    if cut is not None:
        try:
            document = orjson.loads(cut.text)
        except orjson.JSONDecodeError as error:
            raise cut.locate(error) from None
        if cut.put_back(document, paths):
            return document
    raise failure


def loads_config(text: str) -> Any:
    """Return the value of the text of a config.json, which may begin with a byte order mark.

    Raises:
        orjson.JSONDecodeError: the text is not valid JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        failure = error
    text = text.removeprefix(_BYTE_ORDER_MARK)
    start = len(text) - len(text.lstrip(_SPACE))
    if text.startswith("{", start):
        config = _read_config(text, start)
        if not text[config.end :].strip(_SPACE):
            return config.members
    raise failure


def cut_configs(text: Buffer) -> CutText | None:
    """Return a text without its configs that have numbers that are not finite.

    None: there are no such configs, or more than a request can have.

    Raises:
        orjson.JSONDecodeError: a config is not valid JSON.
    """
    text = bytes(text)
    if b"NaN" not in text and b"Infinity" not in text:
        return None
    try:
        whole = text.decode()
    except UnicodeDecodeError:
        return None
    pieces: list[str] = []
    configs: list[dict[str, Any]] = []
    end = num_copied = num_read = 0
    for match in _CONFIG.finditer(whole):
        start = match.end()
        if start < end:  # within the config before
            continue
        if num_read == MAX_READ:
            return None
        config = _read_config(whole, start)
        end, num_read = config.end, num_read + 1
        span = whole[start:end]
        if "NaN" not in span and "Infinity" not in span:
            continue
        if len(configs) == len(_PLACEHOLDERS):
            return None
        placeholder = f'"{_PLACEHOLDERS[len(configs)]}"'
        configs.append(config.members)
        blank = " " * (end - start - len(placeholder))
        pieces += (whole[num_copied:start], placeholder, blank)
        num_copied = end
    if not configs:
        return None
    pieces.append(whole[num_copied:])
    return CutText("".join(pieces).encode(), configs, whole)


def _read_config(text: str, start: int) -> _Config:
    """Return the config that begins at `start`.

    Raises:
        orjson.JSONDecodeError: it is not valid JSON, or `orjson` refuses it for another reason.
    """
    try:
        members, end = _DECODER.raw_decode(text, start)
        if "\\u" in text[start:end]:
            json.dumps(members, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise orjson.JSONDecodeError(error.msg, text, error.pos) from None
    except UnicodeEncodeError:
        raise orjson.JSONDecodeError("half of a surrogate pair in a config", text, start) from None
    except RecursionError:
        raise orjson.JSONDecodeError("a config is nested too deep", text, start) from None
    except ValueError:
        raise orjson.JSONDecodeError("too large a number in a config", text, start) from None
    return _Config(members, end)


def _read_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(digits)
    return number


def _read_int(digits: str) -> float:
    """Return a number as `orjson` does: a float if 64 bits do not hold it."""
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else _read_float(digits)


_DECODER = json.JSONDecoder(
    parse_constant={name: NonFinite(name) for name in ("NaN", "Infinity", "-Infinity")}.__getitem__,
    parse_float=_read_float,
    parse_int=_read_int,
)
