"""Secrets that a profile of the chart expects in its namespace, made for one test."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PodSecrets:
    """An API key, and the key that signs ids of sessions."""

    api_key: str = field(default_factory=lambda: f"rope_{secrets.token_urlsafe(32)}")
    session_key: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a request of the client that has the API key."""
        return {"Authorization": f"Bearer {self.api_key}"}

    @property
    def data(self) -> Mapping[str, str]:
        """The contents by their keys in the Secrets."""
        digest = hashlib.sha256(self.api_key.encode()).hexdigest()
        keys = f'[test]\nkeys = ["{digest}"]\nscopes = ["infer", "sessions", "metrics"]\n'
        return {"keys.toml": keys, "session-key": self.session_key}

    def write(self, folder: Path) -> Path:
        """Write a folder as a volume of these Secrets has it."""
        folder.mkdir(exist_ok=True)
        for name, content in self.data.items():
            (folder / name).write_text(content)
        return folder
