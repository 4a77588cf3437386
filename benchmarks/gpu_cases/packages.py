"""Optional libraries that our kernels are compared with."""

from importlib import import_module
from typing import Any

from benchmarks import table

MODULES = {
    "liger-kernel": "liger_kernel.ops.rope",
    "flashinfer-python": "flashinfer",
    "xformers": "xformers.ops.fmha",
}


class Unavailable(Exception):
    """A library is missing, or does not support a call."""


def describe() -> dict[str, str]:
    """Return the version of each library, or why it cannot be used."""
    return {name: _version_or_reason(name) for name in MODULES}


def load(name: str) -> Any:
    """Import the module of a library.

    Raises:
        Unavailable: the import fails.
    """
    try:
        return import_module(MODULES[name])
    except Exception as exc:  # an import may raise anything on a machine that does not suit it
        raise Unavailable(f"{type(exc).__name__}: {exc}".splitlines()[0]) from None


def _version_or_reason(name: str) -> str:
    try:
        load(name)
    except Unavailable as exc:
        return f"missing ({exc})"
    return table.versions(name).get(name, "unknown version")
