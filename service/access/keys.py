"""Read the keys file: TOML with a table per tenant, and the SHA-256 hashes of its API keys."""

import hmac
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from service.access.tenant import ANONYMOUS, Scope, Tenant

MAX_FILE_BYTES = 2**20
"""Size of the largest keys file."""

MAX_KEYS = 1000
"""Most keys of all tenants together. An unknown key is compared with each of them."""

_Rate = Annotated[FiniteFloat, Field(gt=0)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_Hash = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$")]


class _Table(BaseModel):
    """The table of a tenant in the file; `Tenant` documents the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: Annotated[tuple[_Hash, ...], Field(min_length=1)]
    scopes: frozenset[Scope] = frozenset((Scope.INFER,))
    weight: Annotated[FiniteFloat, Field(gt=0, le=1e6)] = 1.0
    requests_per_s: _Rate | None = None
    bytes_per_s: _Rate | None = None
    compute_s_per_s: _Rate | None = None
    max_concurrent: PositiveInt | None = None
    max_sessions: NonNegativeInt | None = None
    max_kv_bytes: NonNegativeInt | None = None
    max_pinned: NonNegativeInt | None = None


_TABLES = TypeAdapter(dict[_Name, _Table])


class BadKeysFile(ValueError):
    """The keys file cannot be read, or is not valid."""


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The tenant of each key, by the SHA-256 digest of the key."""

    tenants: Mapping[bytes, Tenant]

    def find(self, key: bytes) -> Tenant | None:
        """Return the tenant of a key; None: the key is unknown.

        Each comparison takes constant time, and all keys are compared: the response time reveals
        nothing about a key.
        """
        digest, match = sha256(key).digest(), None
        for digest_of_key, tenant in self.tenants.items():
            if hmac.compare_digest(digest_of_key, digest):
                match = tenant
        return match


NO_KEYS = Keys({})
"""The keys of a service without a keys file."""


def parse_keys(text: str) -> Keys:
    """Parse the text of a keys file.

    Raises:
        BadKeysFile: the text is not valid; the message names the field and the rule, in one line.
    """
    try:
        tables = _TABLES.validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as failure:
        raise BadKeysFile(f"not TOML: {failure}") from None
    except ValidationError as failure:
        error = failure.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in error["loc"] if part != "[key]")
        raise BadKeysFile(f"{field}: {error['msg']}") from None
    tenants: dict[bytes, Tenant] = {}
    for name, table in tables.items():
        if name == ANONYMOUS.name:
            raise BadKeysFile(f"{name}: the name is reserved for services without keys")
        tenant = Tenant(name, **table.model_dump(exclude={"keys"}))
        for index, hex_digest in enumerate(table.keys):
            digest = bytes.fromhex(hex_digest)
            if digest in tenants:
                raise BadKeysFile(f"{name}.keys.{index}: the key is in the file twice")
            tenants[digest] = tenant
    if not tenants:
        raise BadKeysFile("the file must have at least one key, got none")
    if len(tenants) > MAX_KEYS:
        raise BadKeysFile(f"the file may have at most {MAX_KEYS} keys, got {len(tenants)}")
    return Keys(tenants)


def read_keys(path: Path) -> Keys:
    """Read a keys file.

    Raises:
        BadKeysFile: the file cannot be read, or is not valid; the message names the file.
    """
    try:
        with path.open("rb") as file:
            return parse_keys(_decode(file.read(MAX_FILE_BYTES + 1)))
    except OSError as failure:
        raise BadKeysFile(f"{path}: {failure.strerror or failure}") from None
    except BadKeysFile as failure:
        raise BadKeysFile(f"{path}: {failure}") from None


def _decode(content: bytes) -> str:
    if len(content) > MAX_FILE_BYTES:
        raise BadKeysFile(f"the file may have at most {MAX_FILE_BYTES:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadKeysFile("the file is not UTF-8") from None
