"""Choose the backend of a call: named by the request, forced by the operator, or left open."""

from dataclasses import dataclass

from rope_core import Attend, Call, ConfigError, CosSin
from rope_core.backends import ATTEND_ONLY


@dataclass(frozen=True, slots=True)
class BackendPolicy:
    """The operator's settings of backends."""

    forced: str | None = None
    """Backend of calls whose request names none; None: the library chooses."""

    allow_requests: bool = False
    """Whether a request may name a backend."""

    def choose(self, call: Call, requested: str | None) -> str | None:
        """Return the name of the backend for `call`, None where the library chooses.

        Raises:
            ConfigError: the request names a backend and may not.
        """
        if requested is not None:
            self.check_allowed(requested)
            return requested
        if isinstance(call, Attend):
            return self.forced
        # no backend computes cosines, and some only attend
        return None if isinstance(call, CosSin) or self.forced in ATTEND_ONLY else self.forced

    def check_allowed(self, requested: str) -> None:
        """Raise ConfigError if a request names a backend and may not."""
        if not self.allow_requests:
            expected = "absent: the operator of this service does not let requests choose it"
            raise ConfigError("backend", expected, requested)
