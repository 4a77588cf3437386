"""Libraries that a comparison may find installed."""

from importlib import import_module
from typing import Any

from benchmarks import table

MODULES = {
    "liger-kernel": "liger_kernel.ops.rope",
    "flashinfer-python": "flashinfer",
    "xformers": "xformers.ops.fmha",
}


class Missing(Exception):
    """There is no such thing here."""


def found() -> dict[str, str]:
    """Return the version of each, or why it is not taken."""
    return {name: _found(name) for name in MODULES}


def load(name: str) -> Any:
    """Return its module.

    Raises:
        Missing: it cannot be imported.
    """
    try:
        return import_module(MODULES[name])
    except Exception as why:  # a package may fail in any way where it does not fit the machine
        raise Missing(f"{type(why).__name__}: {why}".splitlines()[0]) from None


def _found(name: str) -> str:
    try:
        load(name)
    except Missing as why:
        return f"missing ({why})"
    return table.versions(name).get(name, "of no version")
