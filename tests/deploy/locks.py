"""Read the locks of the image's packages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parents[2] / "deploy" / "requirements"
NAMES = ("torch", "service", "wheel", "sbom")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def version(self) -> str:
        """The version, if there is exactly one."""
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "==", f"not pinned: {self.requirement}"
        assert "*" not in specifier.version, f"not pinned: {self.requirement}"
        return specifier.version


def read(text: str) -> dict[str, Pin]:
    """Return the pins by name; fail at a line that is no pin."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pins = {}
    for entry in filter(None, "\n".join(lines).replace("\\\n", " ").splitlines()):
        requirement, *words = re.split(r"\s+(?=--)", entry.strip())
        assert all(HASH.fullmatch(word) for word in words), f"not a hash: {words}"
        pin = Pin(Requirement(requirement), tuple(words))
        name = canonicalize_name(pin.requirement.name)
        assert name not in pins, f"two versions of {name}"
        pins[name] = pin
    return pins


def locks() -> Mapping[str, Mapping[str, Pin]]:
    """Return the pins of each lock."""
    return {name: read((FOLDER / f"{name}.txt").read_text()) for name in NAMES}
