"""Reads keys of a config.json, and remembers which, and where each value came from."""

import reprlib
from collections.abc import Mapping
from typing import Any

from rope_core.errors import ConfigError
from rope_core.hf.families import Family

GIVEN, CLASS_DEFAULT, DERIVED = "given", "class default", "derived"

MAX_NUMBER = 1e12
"""Largest number taken; larger ones are a mistake, and their powers would overflow."""


def brief(value: Any) -> str:
    """Return what `value` is, short: it may be long, or nested deeply."""
    return reprlib.repr(value)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number of a size that makes sense."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_NUMBER  # false for NaN


class Reader:
    """One config and the family it is read as.

    Args:
        config: the contents of a config.json, or of the part of it that is asked for.
        family: what its class says where the file is silent.
        compat: the version of transformers to follow, "5.23" or "4.57".
        layer: index of the layer that is asked for.
    """

    def __init__(
        self, config: Mapping[str, Any], family: Family, compat: str, layer: int | None = None
    ) -> None:
        self.config = config
        self.family = family.as_of(compat)
        self.compat = compat
        self.layer = layer
        self.layer_type: str | None = None
        self.keys: set[str] = set()
        self.provenance: dict[str, str] = {}
        self.warnings: dict[str, None] = {}
        self._numbers: dict[str, list[Any] | None] = {}

    @property
    def legacy(self) -> bool:
        """Whether transformers 4.57 is followed."""
        return self.compat == "4.57" and not self.family.new

    def name(self, key: str) -> str:
        """Return the name under which the file has `key`, or would have it in this family."""
        own = self.family.names.get(key, key)
        return key if own not in self.config and key in self.config else own

    def given(self, key: str) -> Any:
        """Return what the file says of `key`, by its own name in this family; None if nothing."""
        for name in dict.fromkeys((self.family.names.get(key, key), key)):
            if name not in self.config:
                continue
            if name in self.family.ignores:
                if self.config[name] is not None:
                    self.warn(f"{name} is ignored: {self.family.name}'s class does not read it")
                continue
            self.keys.add(name)
            if self.config[name] is not None:
                return self.config[name]
        return None

    def is_null(self, key: str) -> bool:
        """Whether the file has `key`, with nothing in it."""
        return self.name(key) in self.config and self.given(key) is None

    def get(self, key: str, default: Any = None) -> Any:
        """Return the file's value, else the class's, else `default`."""
        value = self.given(key)
        if value is not None:
            self.provenance[key] = GIVEN
            return value
        value = self.family.defaults.get(key)
        if value is not None:
            self.provenance[key] = CLASS_DEFAULT
            return value
        return default

    def number(self, key: str, default: float | None = None) -> Any:
        """As `get`, of a number.

        Raises:
            ConfigError: it is missing and there is no default, or is no number.
        """
        value = self.get(key, default)
        if value is None:
            raise ConfigError(self.name(key), "given", "none")
        if not is_number(value):
            raise ConfigError(self.name(key), "a number", brief(value))
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """As `number`, above 0."""
        value = self.number(key, default)
        if value <= 0:
            raise ConfigError(self.name(key), "a number above 0", value)
        return float(value)

    def size(self, key: str, default: int | None = None) -> int:
        """As `number`, of a whole number above 0."""
        value = self.number(key, default)
        if value != int(value) or value < 1:
            raise ConfigError(self.name(key), "a whole number above 0", value)
        return int(value)

    def first_size(self, *keys: str, default: int | None = None) -> int:
        """As `size`, under the first of `keys` that the file has, or else the last."""
        found = next((key for key in keys if self.given(key) is not None), keys[-1])
        return self.size(found, default)

    def sizes(self, *keys: str) -> tuple[int, ...]:
        """Return a list of whole numbers above 0, under the first of `keys` that is given."""
        for read in (self.given, self.get):
            for key in keys:
                value = read(key)
                if value is None:
                    continue
                if not isinstance(value, list | tuple) or not all(
                    type(item) is int and 0 < item <= MAX_NUMBER for item in value
                ):
                    raise ConfigError(key, "a list of whole numbers above 0", brief(value))
                return tuple(value)
        raise ConfigError(keys[0], "given", "none")

    def numbers(self, key: str) -> list[Any] | None:
        """Return a list of numbers (or null) with one for each layer; None where there is none.

        Raises:
            ConfigError: it is no such list, or ends before the layer that is asked for.
        """
        if key not in self._numbers:
            self._numbers[key] = self._read_numbers(key)
        return self._numbers[key]

    def _read_numbers(self, key: str) -> list[Any] | None:
        value = self.given(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(x is None or is_number(x) for x in value):
            raise ConfigError(self.name(key), "a list with a number for each layer", brief(value))
        if not value or len(value) <= (self.layer or 0):
            expected = f"a list of more than {self.layer or 0} numbers, one for each layer"
            raise ConfigError(self.name(key), expected, f"{len(value)}")
        return value

    def warn(self, text: str) -> None:
        """Note something the caller should know; once."""
        self.warnings[text] = None

    @property
    def ignored(self) -> list[str]:
        """Keys of the file that nothing has read."""
        return sorted(str(key) for key in self.config if key not in self.keys)
