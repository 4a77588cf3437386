"""Decides who a request is from, and whether that tenant may use the route."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service.access.keys import NO_KEYS, BadKeysFile, Keys, read_keys
from service.access.quota import Quotas
from service.access.scopes import OPEN_METHODS, OPEN_PATHS, decided_method_scope, decided_scope
from service.access.tenant import ANONYMOUS, Scope, Tenant
from service.access.watched_file import WatchedFiles
from service.errors import Forbidden, Unauthenticated

log = logging.getLogger("rope.access")


class Gate:
    """Admits requests. Without a keys file, all of them, as `ANONYMOUS`.

    All methods but `knows` are for the event loop's thread.

    Args:
        keys_file: the keys of tenants; None: clients need no key.
        quotas: of the tenants.
        clock: returns monotonic seconds.

    Raises:
        BadKeysFile: the file cannot be read, or is not valid; the message names the file.
    """

    def __init__(
        self,
        keys_file: Path | None = None,
        quotas: Quotas | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quotas = quotas or Quotas()
        self._path = keys_file
        self._clock = clock
        self.needs_keys = keys_file is not None
        """Whether clients need a key."""
        self._admitted: dict[bytes, Tenant] = {}
        """Tenants of keys that were found before."""
        self.file = WatchedFiles([] if keys_file is None else [keys_file], clock())
        """From its `next_look` on, `refresh` looks at the file."""
        self.keys: Keys = NO_KEYS if keys_file is None else read_keys(keys_file)
        """Another object after each change of the file: what was decided by an earlier one is not
        valid."""

    def admit(self, path: str, authorization: Sequence[bytes]) -> Tenant:
        """Return the tenant of a request over HTTP.

        Args:
            path: decoded, as the router gets it. No other part of the request names the route.
            authorization: values of all fields Authorization.

        Raises:
            Unauthenticated: the route needs a key, and the request has none that is known.
            Forbidden: the tenant has not the scope of the route.
        """
        if path in OPEN_PATHS:
            return ANONYMOUS
        return self._admit(decided_scope(path) or Scope.ADMIN, authorization)

    def admit_rpc(self, path: str, authorization: Sequence[bytes]) -> Tenant:
        """Return the tenant of an RPC, as `admit`."""
        if path in OPEN_METHODS:
            return ANONYMOUS
        return self._admit(decided_method_scope(path) or Scope.ADMIN, authorization)

    def knows(self, authorization: Sequence[bytes]) -> bool:
        """Tell whether a key was found before. Any thread may call this."""
        try:
            return _key_of(authorization) in self._admitted
        except Unauthenticated:
            return False

    def refresh(self, now: float) -> bool:
        """Look at the keys file, unless that was done a moment ago; return whether keys changed."""
        return self.file.have_changed(now) and self.reload()

    def reload(self) -> bool:
        """Read the keys file, if there is one; return whether that gave keys.

        A file that is not valid is logged, and the keys stay.
        """
        if self._path is None:
            return False
        try:
            self.keys = read_keys(self._path)
        except BadKeysFile as failure:
            log.error("%s; the keys before it stay valid", failure)  # noqa: TRY400
            return False
        self._admitted.clear()
        log.info("keys are reloaded", extra={"fields": {"num_keys": len(self.keys.tenants)}})
        return True

    def _admit(self, scope: Scope, authorization: Sequence[bytes]) -> Tenant:
        if not self.needs_keys:
            return ANONYMOUS
        self.refresh(self._clock())
        tenant = self._identify(authorization)
        if scope not in tenant.scopes:
            raise Forbidden(f"the key has not the scope {scope}, which the route needs")
        return tenant

    def _identify(self, authorization: Sequence[bytes]) -> Tenant:
        key = _key_of(authorization)
        tenant = self._admitted.get(key)
        if tenant is None:
            tenant = self.keys.find(key)
            if tenant is None:
                raise Unauthenticated("the API key is not known")
            self._admitted[key] = tenant  # no more than there are keys
        return tenant


def _key_of(authorization: Sequence[bytes]) -> bytes:
    """Return the key in the values of all fields Authorization.

    Raises:
        Unauthenticated: there is not one key.
    """
    if len(authorization) != 1:
        raise Unauthenticated(f"Authorization must be given once, got {len(authorization)}")
    scheme, _, text = authorization[0].partition(b" ")
    key = text.strip(b" \t")
    if scheme.lower() != b"bearer" or not key:
        raise Unauthenticated("Authorization must be Bearer, and an API key")
    return key
