"""Reads keys of a config.json, and records the keys and where each value comes from."""

from collections.abc import Mapping
from typing import Any

from rope_core import checks
from rope_core.errors import ConfigError, brief
from rope_core.hf.family import Family

GIVEN, CLASS_DEFAULT, DERIVED = "given", "class default", "derived"

MAX_NUMBER = 1e12
"""Largest number accepted. Larger ones are mistakes, and their powers overflow."""

MAX_NAMED = 16
"""Largest number of names in a warning or an error."""

DICTIONARIES = ("rope_scaling", "rope_parameters")
"""Keys with a dictionary of rope parameters, the one to prefer first."""

PER_LAYER = "per_layer_config"
"""The key with values for single layers, by their indices."""

MAX_WARNING = 2048
"""Most characters of a warning."""

MAX_LAYERS = 10_000
"""Largest number of layers accepted."""


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite number of a plausible size."""
    return checks.is_number(value, MAX_NUMBER)


def is_int(value: Any) -> bool:
    """Return whether `value` is an int and not a bool."""
    return type(value) is int


class ConfigReader:
    """One config and the family that says how to read it.

    Args:
        config: the contents of a config.json, or of the nested config of one part.
        family: the row of the config's class.
        compat: the version of transformers to follow, "5.23" or "4.57".
        layer: index of the layer to resolve.

    Attributes:
        layer_values: keys that have a value of their own in the layer to resolve.
        provenance: where each value comes from.
        why: for the same names the key of the config, the class, or the formula.
    """

    def __init__(
        self, config: Mapping[str, Any], family: Family, compat: str, layer: int | None = None
    ) -> None:
        self.config = config
        self.family = family.for_version(compat)
        self.compat = compat
        self.layer = layer
        self.layer_type: str | None = None
        self.layer_values: Mapping[str, Any] = {}
        self.keys_read: set[str] = set()
        self.provenance: dict[str, str] = {}
        self.why: dict[str, str] = {}
        self.keys_without_effect: set[str] = set()
        self.warnings: dict[str, None] = {}
        self.is_4_57 = compat == "4.57" and not family.new_in_5
        self._checked: set[str] = set()

    def key_name(self, key: str) -> str:
        """Return the name of `key` in the file, or in this family if the file lacks the key."""
        name = self.family.key_names.get(key, key)
        return key if name not in self.config and key in self.config else name

    def from_file(self, key: str) -> Any:
        """Return the layer's or the file's value, None if missing or null.

        The family's name of `key` is first.
        """
        return self._find(key)[1]

    def _find(self, key: str) -> tuple[str, Any]:
        """Return the path of a value in the file, and the value of `from_file`."""
        if key in self.layer_values:
            path = f"{PER_LAYER}.{key}"
            self.keys_read.add(path)
            return path, self.layer_values[key]
        names = (self.family.key_names.get(key, key), key, self.family.other_names.get(key, key))
        for name in dict.fromkeys(names):
            if name not in self.config:
                continue
            if name in self.family.ignored_keys:
                if self.config[name] is not None:
                    self.ignore(name, f"the class of {self.family.name} does not read it")
                continue
            self.keys_read.add(name)
            if self.config[name] is not None:
                return name, self.config[name]
        return key, None

    def is_null(self, key: str) -> bool:
        """Return whether the file has `key` with the value null."""
        return self.key_name(key) in self.config and self.from_file(key) is None

    def get(self, key: str, default: Any = None) -> Any:
        """Return the file's value, else the class's, else `default`."""
        path, value = self._find(key)
        if value is not None:
            self.record(key, GIVEN, path)
            return value
        value = self.family.defaults.get(key)
        if value is not None:
            self.record(key, CLASS_DEFAULT)
            return value
        return default

    def record(self, name: str, source: str, why: str = "") -> None:
        """Record where a value comes from: the key of the file, or the formula.

        Args:
            name: the name of the value.
            source: `given`, `class default` or `derived`.
            why: the key or the formula; "" for the family's class.
        """
        self.provenance[name] = source
        self.why[name] = why or f"class of {self.family.name}"

    def number(self, key: str, default: float | None = None) -> Any:
        """Return the value of `get`, which must be a number.

        Raises:
            ConfigError: the value is missing and has no default, or is not a number.
        """
        value = self.get(key, default)
        if value is None:
            raise ConfigError(self.key_name(key), "given", "none")
        if not is_number(value):
            raise ConfigError(self.key_name(key), "a number", brief(value))
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """Return the value of `number` as a float, which must be above 0."""
        value = self.number(key, default)
        if value <= 0:
            raise ConfigError(self.key_name(key), "a number above 0", value)
        return float(value)

    def size(self, key: str, default: int | None = None) -> int:
        """Return the value of `number` as an int, which must be above 0."""
        value = self.number(key, default)
        if value != int(value) or value < 1:
            raise ConfigError(self.key_name(key), "a whole number above 0", value)
        return int(value)

    def first_size(self, *keys: str, default: int | None = None) -> int:
        """Return the size under the first of `keys` that the file has, or under the last."""
        key = next((key for key in keys if self.from_file(key) is not None), keys[-1])
        return self.size(key, default)

    def sizes(self, *keys: str) -> tuple[int, ...]:
        """Return a list of sizes, under the first of `keys` that the file has, or the class."""
        for read in (self.from_file, self.get):
            for key in keys:
                value = read(key)
                if isinstance(value, list | tuple) and all(
                    is_int(x) and 0 < x <= MAX_NUMBER for x in value
                ):
                    return tuple(value)
                if value is not None:
                    raise ConfigError(key, "a list of whole numbers above 0", brief(value))
        raise ConfigError(keys[0], "given", "none")

    def integers(self, key: str) -> list[int] | None:
        """Return a list of whole numbers of the file, None if missing or null."""
        value = self.from_file(key)
        if value is not None and not (isinstance(value, list) and all(map(is_int, value))):
            raise ConfigError(key, "a list of whole numbers", brief(value))
        return value

    def num_layers(self) -> int | None:
        """Return the number of layers, None if neither the file nor the class has one."""
        if self.get("num_hidden_layers") is None:
            return None
        total = self.size("num_hidden_layers")
        if total > MAX_LAYERS:
            raise ConfigError(self.key_name("num_hidden_layers"), f"at most {MAX_LAYERS}", total)
        return total

    def per_layer(self, key: str) -> list[Any] | None:
        """Return a list with a number or null for each layer, None if missing.

        Raises:
            ConfigError: the value is no such list, or ends before the layer to resolve.
        """
        value: list[Any] | None = self.from_file(key)
        if value is None or key in self._checked:
            return value
        self.of_layer(key, "numbers", self.layer or 0)
        if not all(x is None or is_number(x) for x in value):
            raise ConfigError(
                self.key_name(key), "a list with a number for each layer", brief(value)
            )
        self._checked.add(key)
        return value

    def of_layer(self, key: str, items: str, layer: int) -> Any:
        """Return a layer's item of the list under `key`, which has one item for each layer.

        Args:
            key: the key of the list, which the file has.
            items: what the list has, in words, for the error.
            layer: index of the layer.

        Raises:
            ConfigError: the value is no list, or ends before the layer.
        """
        value = self.from_file(key)
        if not isinstance(value, list) or layer >= len(value):
            expected = f"a list of more than {layer} {items}, one for each layer"
            raise ConfigError(self.key_name(key), expected, brief(value))
        return value[layer]

    def warn(self, text: str) -> None:
        """Record a warning for the caller, once, as one line: keys of a file can be any text."""
        line = "".join(c if c.isprintable() else "?" for c in text[:MAX_WARNING])
        self.warnings[line] = None

    def ignore(self, key: str, why: str) -> None:
        """Record that a key has no effect, and a warning of it."""
        self.keys_without_effect.add(key)
        self.warn(f"{key} is ignored: {why}")

    @property
    def keys_ignored(self) -> list[str]:
        """Keys of the file that were not read."""
        return sorted(str(key) for key in self.config if key not in self.keys_read)
