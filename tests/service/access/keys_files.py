"""Write keys files for tests."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

INFER, OTHER, METRICS, ADMIN = "infer-key", "other-key", "metrics-key", "admin-key"
"""Keys of the tenants of `write_all`; `OTHER` has the same scope as `INFER`."""


def table(name: str, keys: Iterable[str], *lines: str) -> str:
    """Return the table of a tenant."""
    hashes = ", ".join(f'"{sha256(key.encode()).hexdigest()}"' for key in keys)
    return "\n".join([f"[{name}]", f"keys = [{hashes}]", *lines, ""])


def write_all(path: Path, *infer_keys: str) -> Path:
    """Write a file with one tenant for each scope; `infer_keys` are those of the first."""
    path.write_text(
        table("one", infer_keys or [INFER])
        + table("two", [OTHER], "weight = 3")
        + table("meter", [METRICS], 'scopes = ["metrics"]')
        + table("operator", [ADMIN], 'scopes = ["infer", "admin"]')
    )
    return path
