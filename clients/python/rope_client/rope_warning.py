"""Warnings of answers as Python warnings, at the line that called the client."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


class RopeWarning(UserWarning):
    """The service or the client warns about a call; each client issues a kind of warning once."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The line that calls a method of a client."""

    filename: str
    line: int
    module: str
    registry: dict[Any, Any]
    """The warnings that Python has issued in the module."""

    @classmethod
    def of(cls, frame: FrameType) -> "Caller":
        """Return the line that a frame is at; the frame itself is not kept."""
        members = frame.f_globals
        return cls(
            frame.f_code.co_filename,
            frame.f_lineno,
            members.get("__name__", "<unknown>"),
            members.setdefault("__warningregistry__", {}),
        )


class WarnOnce:
    """Issues one warning of each kind. Texts that differ only in numbers are of one kind."""

    def __init__(self) -> None:
        self._issued: set[str] = set()

    def __call__(self, texts: Iterable[str], caller: Caller) -> None:
        """Issue the texts whose kind is new; the filters of `warnings` apply to them."""
        for text in texts:
            kind = _NUMBER.sub("0", text)
            if kind not in self._issued:
                warnings.warn_explicit(
                    text,
                    RopeWarning,
                    caller.filename,
                    caller.line,
                    caller.module,
                    caller.registry,
                )
                # not if a filter made an error of the text: the next one is to raise as well
                self._issued.add(kind)
