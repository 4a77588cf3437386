"""Versions and licences of packages that a release may have."""

from collections.abc import Iterable, Mapping
from typing import Any

from packaging.version import Version

FLOORS: Mapping[str, str] = {
    "fastapi": "0.115",
    "grpcio": "1.57",  # CVE-2023-33953: buffers of HPACK
    "h11": "0.16.0",  # CVE-2025-43859: ends of chunks
    "orjson": "3.9.15",  # CVE-2024-27454: recursion
    "protobuf": "6.33.5",  # CVE-2026-0994: recursion
    "starlette": "1.0.1",  # CVE-2026-48710: a path within Host
    "torch": "2.10.0",  # CVE-2026-24747
}
"""Oldest versions without a known vulnerability that requests can reach."""

ABSENT = frozenset(("python-multipart", "pip"))
"""Packages that must not be in the image: it parses no forms and installs nothing."""

LICENCES = frozenset(
    (
        *("MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "PSF-2.0"),
        *("Python-2.0", "Zlib", "CC0-1.0", "BSL-1.0", "Unicode-3.0", "CNRI-Python", "MPL-2.0"),
    )
)
"""Licences that allow a user to run and to ship the image. MPL-2.0 asks for changed files only."""

CLASSIFIERS = frozenset(
    f"License :: OSI Approved :: {name}"
    for name in ("BSD License", "MIT License", "Apache Software License")
)
"""Licences by classifier: older packages have no other field."""

UNDECLARED: Mapping[str, str] = {"protobuf": "BSD-3-Clause", "pysimdjson": "MIT"}
"""Licences of packages whose metadata has the text only."""


def outdated(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the packages that are older than their floor."""
    return {
        name: versions[name]
        for name, floor in FLOORS.items()
        if name in versions and Version(versions[name]) < Version(floor)
    }


def unknown_licences(components: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the licences of the components of a CycloneDX document that are not in LICENCES."""
    unknown = {}
    for component in components:
        declared = [_text(entry) for entry in component.get("licenses", ())]
        declared = [text for text in declared if text] or [UNDECLARED.get(component["name"], "")]
        if not any(_is_allowed(text) for text in declared):
            unknown[component["name"]] = declared
    return unknown


def _text(entry: Mapping[str, Any]) -> str:
    licence = entry.get("license", {})
    return entry.get("expression") or licence.get("id") or licence.get("name") or ""


def _is_allowed(text: str) -> bool:
    """Return whether a licence, or each licence of an expression, is allowed."""
    if text in CLASSIFIERS:
        return True
    words = text.replace("(", " ").replace(")", " ").replace(" OR ", " AND ").split(" AND ")
    return all(word.strip().partition(" WITH ")[0] in LICENCES for word in words)
