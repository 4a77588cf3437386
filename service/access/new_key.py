"""Generate API keys: the command `rope-service new-key NAME`."""

import argparse
import secrets
from collections.abc import Sequence
from hashlib import sha256

from service.access.keys import BadKeysFile, parse_keys
from service.access.tenant import Scope

KEY_BYTES = 32
"""Random bytes of a key: enough that a plain SHA-256 hash, without a salt, protects the key."""

PREFIX = "rope_"
"""Prefix of a key: secret scanners recognize keys in files by this prefix."""


def new_key(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Return a new key, and the table of a tenant with this key for the keys file.

    Raises:
        BadKeysFile: the name or a scope is not valid.
    """
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    quoted = ", ".join(f'"{scope}"' for scope in scopes)
    digest = sha256(key.encode()).hexdigest()
    lines = f'["{name}"]\nkeys = ["{digest}"]\nscopes = [{quoted}]\n'
    parse_keys(lines)
    return key, lines


def run(arguments: Sequence[str]) -> str:
    """Run the command, and return the text to print.

    Raises:
        SystemExit: the arguments are not valid.
    """
    parser = argparse.ArgumentParser(
        prog="rope-service new-key",
        description="Generate an API key, and print it with its table for ROPE_KEYS_FILE.",
    )
    parser.add_argument("name", help="name of the tenant")
    parser.add_argument(
        "--scopes",
        default=Scope.INFER.value,
        help=f"scopes of the key, separated by commas: {', '.join(Scope)} (default: infer)",
    )
    chosen = parser.parse_args(arguments)
    try:
        key, lines = new_key(chosen.name, chosen.scopes.split(","))
    except BadKeysFile as failure:
        parser.error(str(failure))
    hint = "# Give the key above to the client; it is not stored. Lines for ROPE_KEYS_FILE:"
    return f"{key}\n\n{hint}\n{lines}"
