"""Authenticate a request by its API key, and authorize it by the scope of its route."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service.access.keys import NO_KEYS, BadKeysFile, Keys, read_keys
from service.access.quota import Quotas
from service.access.scopes import PUBLIC_METHODS, is_public, method_scope, path_scope
from service.access.tenant import ANONYMOUS, Scope, Tenant
from service.access.watched_file import WatchedFiles
from service.errors import Forbidden, Unauthenticated

log = logging.getLogger("rope.access")


class Gate:
    """Finds the tenant of each request. Without a keys file this is always `ANONYMOUS`.

    Call all methods on the event loop's thread, except `is_cached`.

    Args:
        keys_file: path of the keys file; None: clients need no key.
        quotas: limits of the tenants.
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
        self._tenants: dict[bytes, Tenant] = {}
        """Cache: the tenant of each key that was found. At most one entry per key in the file."""
        self.file = WatchedFiles([] if keys_file is None else [keys_file], clock())
        """Watches the keys file; `refresh` checks the file from `next_look` on."""
        self.keys: Keys = NO_KEYS if keys_file is None else read_keys(keys_file)
        """Another object after each change of the file: a decision made with an earlier object is
        stale."""

    def authorize(self, path: str, authorization: Sequence[bytes]) -> Tenant:
        """Return the tenant of an HTTP request.

        Args:
            path: percent-decoded, as the router gets the path; no other part selects the route.
            authorization: values of all Authorization headers.

        Raises:
            Unauthenticated: the route needs a key, and the request has no valid key.
            Forbidden: the tenant lacks the scope of the route.
        """
        if is_public(path):
            return ANONYMOUS
        return self._authorize(path_scope(path) or Scope.ADMIN, authorization)

    def authorize_rpc(self, path: str, authorization: Sequence[bytes]) -> Tenant:
        """Return the tenant of an RPC; raise the errors of `authorize`."""
        if path in PUBLIC_METHODS:
            return ANONYMOUS
        return self._authorize(method_scope(path) or Scope.ADMIN, authorization)

    def is_cached(self, authorization: Sequence[bytes]) -> bool:
        """Return whether the key is in the cache of valid keys. Thread-safe."""
        try:
            return _key_of(authorization) in self._tenants
        except Unauthenticated:
            return False

    def refresh(self, now: float) -> bool:
        """Reload the keys file if it has changed; return whether the keys changed.

        The file is checked at most once in LOOK_INTERVAL_S.
        """
        return self.file.have_changed(now) and self.reload()

    def reload(self) -> bool:
        """Read the keys file, if there is one; return whether the keys were replaced.

        If the file is not valid, an error is logged and the last valid keys stay in use.
        """
        if self._path is None:
            return False
        try:
            self.keys = read_keys(self._path)
        except BadKeysFile as failure:
            log.error("%s; the last valid keys stay in use", failure)  # noqa: TRY400
            return False
        self._tenants.clear()
        log.info("keys were reloaded", extra={"fields": {"num_keys": len(self.keys.tenants)}})
        return True

    def _authorize(self, scope: Scope, authorization: Sequence[bytes]) -> Tenant:
        if not self.needs_keys:
            return ANONYMOUS
        self.refresh(self._clock())
        tenant = self._identify(authorization)
        if scope not in tenant.scopes:
            scopes = ", ".join(sorted(tenant.scopes)) or "none"
            raise Forbidden(f"the route needs the scope {scope}, the API key has {scopes}")
        return tenant

    def _identify(self, authorization: Sequence[bytes]) -> Tenant:
        key = _key_of(authorization)
        tenant = self._tenants.get(key)
        if tenant is None:
            tenant = self.keys.find(key)
            if tenant is None:
                raise Unauthenticated("unknown API key")
            self._tenants[key] = tenant
        return tenant


def _key_of(authorization: Sequence[bytes]) -> bytes:
    """Return the key of `Authorization: Bearer KEY`.

    Args:
        authorization: values of all Authorization headers.

    Raises:
        Unauthenticated: the header is missing or repeated, or has another scheme or no key.
    """
    if len(authorization) != 1:
        raise Unauthenticated(f"Authorization must be given once, got {len(authorization)} times")
    scheme, _, text = authorization[0].partition(b" ")
    key = text.strip(b" \t")
    if scheme.lower() != b"bearer" or not key:
        raise Unauthenticated("Authorization must be 'Bearer' and an API key, got another form")
    return key
