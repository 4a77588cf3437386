"""The queries of exports, imports and lists."""

import math
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple, get_args
from urllib.parse import parse_qsl

from rope_core.kvcache.transfer.stored import Form
from service.errors import BadQuery, UnknownName, printable
from service.sessions.lifetime.session import SessionOptions

_FORMS: tuple[Form, ...] = get_args(Form)
_NUMBER = re.compile(r"[0-9]{1,15}")
_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")

MAX_NUMBERS = 1024
"""Most rows, and most layers, that a query names."""


class ExportQuery(NamedTuple):
    """What to export."""

    form: Form
    rows: list[int] | None
    layers: list[int] | None
    start: int | None
    stop: int | None
    strict: bool


def read_query(query: bytes) -> list[tuple[str, str]]:
    """Return names and values of a query. Raises BadQuery."""
    if not query:
        return []
    try:
        return parse_qsl(
            query.decode(), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError:  # also of UTF-8
        expected = "name=value pairs in UTF-8, percent-encoded and joined by &"
        raise BadQuery(f"the query must be {expected}") from None


def read_export_query(query: bytes) -> ExportQuery:
    """Return the parameters of an export. Raises BadQuery, UnknownName."""
    values = read_unique(query, ExportQuery._fields)
    form = values.get("form", "stored")
    if form not in _FORMS:
        raise BadQuery(f"form must be {', '.join(_FORMS)}, got {printable(form)}")
    strict = values.get("strict", "false")
    if strict not in ("true", "false"):
        raise BadQuery(f"strict must be true or false, got {printable(strict)}")
    return ExportQuery(
        _FORMS[_FORMS.index(form)],
        _numbers(values, "rows"),
        _numbers(values, "layers"),
        _place(values, "start"),
        _place(values, "stop"),
        strict == "true",
    )


def read_import_query(query: bytes) -> SessionOptions:
    """Return what the client of an import asks for; the registry checks the values.

    Raises:
        BadQuery, UnknownName: the query is none of an import.
    """
    labels = [value for name, value in read_query(query) if name == "label"]
    values = read_unique(query, ("ttl_s", "max_age_s", "name"), repeatable=("label",))
    return SessionOptions(
        ttl_s=_seconds(values, "ttl_s"),
        max_age_s=_seconds(values, "max_age_s"),
        name=values.get("name"),
        labels=labels,
    )


def read_unique(
    query: bytes, names: Collection[str], repeatable: Collection[str] = ()
) -> Mapping[str, str]:
    """Return the values of the parameters `names`, each of which a query may have once.

    Args:
        query: of the request.
        names: of the parameters.
        repeatable: names of further parameters, which are allowed and are not returned.

    Raises:
        BadQuery, UnknownName: the query has another parameter, or one of `names` twice.
    """
    values: dict[str, str] = {}
    for name, value in read_query(query):
        if name in repeatable:
            continue
        if name not in names:
            raise UnknownName("parameter", name, [*names, *repeatable])
        if name in values:
            raise BadQuery(f"the query has {name} twice")
        values[name] = value
    return values


def _numbers(values: Mapping[str, str], name: str) -> list[int] | None:
    """Return numbers that are written as `0,2,5-7`."""
    if name not in values:
        return None
    numbers: list[int] = []
    for part in values[name].split(","):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else -1
        if not first <= last < first + MAX_NUMBERS or len(numbers) > MAX_NUMBERS:
            expected = f"at most {MAX_NUMBERS} numbers and ranges such as 0,2,5-7"
            raise BadQuery(f"{name} must be {expected}, got {printable(values[name])}")
        numbers += range(first, last + 1)
    return numbers


def _place(values: Mapping[str, str], name: str) -> int | None:
    if name not in values:
        return None
    if not _NUMBER.fullmatch(values[name]):
        raise BadQuery(f"{name} must be a whole number, got {printable(values[name])}")
    return int(values[name])


def _seconds(values: Mapping[str, str], name: str) -> float | None:
    if name not in values:
        return None
    try:
        seconds = float(values[name])
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise BadQuery(f"{name} must be a number, got {printable(values[name])}")
    return seconds
