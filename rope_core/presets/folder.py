"""An operator's folder of config.json files."""

import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rope_core.errors import ConfigError
from rope_core.presets import NAME, Preset, read_config


@dataclass(frozen=True, slots=True)
class RefusedPreset:
    """A file of the folder that is no preset."""

    name: str
    """Name that the preset would have."""

    source: str
    """Path relative to the folder."""

    reason: str


def read_folder(folder: Path) -> dict[str, Preset | RefusedPreset]:
    """Read an operator's presets, `<name>.json` files and `<name>/config.json`, by name.

    A file is refused if it cannot be read, is no JSON object, or has an invalid name or that of
    another file. Hidden entries, and other files and folders, are ignored.

    Raises:
        ConfigError: the folder cannot be read.
    """
    presets: dict[str, Preset | RefusedPreset] = {}
    for name, files in _files(folder).items():
        sources = [_text(file.relative_to(folder)) for file in files]
        try:
            presets[name] = _read(name, files, sources)
        except ConfigError as error:
            presets[name] = RefusedPreset(name, sources[0], str(error))
    return presets


def _read(name: str, files: Sequence[Path], sources: Sequence[str]) -> Preset:
    if not NAME.fullmatch(name):
        raise ConfigError(sources[0], f"named like {NAME.pattern}", repr(name))
    if len(files) > 1:
        raise ConfigError(sources[0], "the only preset of its name", f"also {sources[1]}")
    if _is_special(files[0]):  # a pipe would stop the start
        raise ConfigError(sources[0], "a regular file", "a file of another kind")
    return Preset(name, read_config(files[0], sources[0]), sources[0])


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each preset by its name."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ConfigError("the folder of presets", "readable", error.strerror) from None
    files: dict[str, list[Path]] = defaultdict(list)
    for entry in entries:
        if entry.suffix == ".json" and not _is_folder(entry):
            files[_text(entry.stem)].append(entry)
        elif _has_config(entry):
            files[_text(entry.name)].append(entry / "config.json")
    return files


def _is_folder(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_special(file: Path) -> bool:
    """Tell whether there is something that is neither a file nor a folder."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _has_config(entry: Path) -> bool:
    """Tell whether an entry is a folder with a config.json, which may be a broken link."""
    try:
        if entry.is_symlink() and not entry.exists():
            return NAME.fullmatch(entry.name) is not None
        (entry / "config.json").lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # in a closed folder: lost+found, or one of an operator's
        return NAME.fullmatch(entry.name) is not None
    return True


def _text(path: Path | str) -> str:
    """Return a path as text; a byte that is not UTF-8 becomes U+FFFD."""
    return os.fsencode(path).decode(errors="replace")
