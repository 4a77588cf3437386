"""Which backend shall do a call: the request's choice, the operator's, or the library's."""

from collections.abc import Mapping
from dataclasses import dataclass

from rope_core import Call, ConfigError, CosSin, Merge, Rotate, Shift
from rope_core.backends import ATTEND_ONLY

NEVER_DOES: Mapping[str, tuple[type, ...]] = dict.fromkeys(ATTEND_ONLY, (Rotate, Shift, Merge))
"""Kinds of calls that a backend never does: to force it leaves them to the library's choice."""


@dataclass(frozen=True, slots=True)
class BackendPolicy:
    """What the operator has decided."""

    forced: str | None = None
    """Name of the backend that does what requests leave open; the library's choice where None."""

    by_request: bool = False
    """Whether a request may name one."""

    def of(self, call: Call, asked: str | None) -> str | None:
        """Return the name of the backend for `call`, None where the library is to choose.

        Raises:
            ConfigError: a request names one, and must not.
        """
        if asked is not None:
            if not self.by_request:
                where = "absent: the operator of this service does not let requests choose one"
                raise ConfigError("backend", where, asked)
            return asked
        if self.forced is None or isinstance(call, (CosSin, *NEVER_DOES.get(self.forced, ()))):
            return None
        return self.forced
