"""The files of the page, read and compressed once at the start."""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

MEDIA_TYPES = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "json": b"application/json",
    "sha256": b"text/plain; charset=utf-8",
    "txt": b"text/plain; charset=utf-8",
}
"""Media type by the ending of a file's name."""

FIRST_VIEW = "config.html"
"""The file at `/ui/`."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page."""

    media_type: bytes
    content: bytes
    compressed: bytes
    """The content, compressed with gzip."""
    digest: bytes
    """Changes with the content."""

    def etag(self, coding: bytes | None) -> bytes:
        """Return the strong validator of the file, with or without compression."""
        return b'"%b-%b"' % (self.digest, coding) if coding else b'"%b"' % self.digest


def read_files() -> Mapping[str, PageFile]:
    """Return all files of the page by their path below `/ui/`; "" is the first view.

    Raises:
        KeyError: a file has an ending without a media type.
    """
    found = dict(_read_folder(files("service.page") / "static", ""))
    found[""] = found[FIRST_VIEW]
    return MappingProxyType(found)


def _read_folder(folder: Traversable, prefix: str) -> Iterator[tuple[str, PageFile]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read_folder(entry, f"{prefix}{entry.name}/")
        else:
            media_type = MEDIA_TYPES[entry.name.rpartition(".")[2]]
            yield prefix + entry.name, _make_file(media_type, entry.read_bytes())


def _make_file(media_type: bytes, content: bytes) -> PageFile:
    digest = hashlib.sha256(content).hexdigest()[:32].encode()
    return PageFile(media_type, content, gzip.compress(content, mtime=0), digest)
