"""What the protocol tells of tracing and logging, which no request changes."""

from collections.abc import Mapping
from types import MappingProxyType

from service.settings import Settings

UNCHANGED = "tracing and logging are set by the operator, and not changed by requests"

TRACE_SETTINGS: Mapping[str, str | list[str]] = MappingProxyType(
    {
        "trace_level": ["OFF"],
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "triton",
    }
)
"""There is no tracing of this kind."""


def log_settings(settings: Settings) -> dict[str, str | bool | int]:
    """Return what is logged: everything goes to standard output."""
    rank = ("error", "warning", "info", "debug").index(settings.log_level)
    return {
        "log_file": "",
        "log_info": rank >= 2,
        "log_warning": rank >= 1,
        "log_error": True,
        "log_verbose_level": int(rank >= 3),
        "log_format": "default",
    }
