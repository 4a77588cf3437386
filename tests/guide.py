"""Runs the pages that a reader follows from top to bottom: each block as it is written."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.cli.app import run
from tests.conftest import ROOT, Serve

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = {"bash", "console", "python"}
WRITTEN_URL = re.compile(r"https?://127\.0\.0\.1:8000")
MAY_DIFFER = {"compare", "diagnose"}
"""Commands that exit with 1 where they find a difference."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the contents of each fenced block."""
    return FENCE.findall(page)


def rounded(answer: object) -> object:
    """Round all numbers: their last digits depend on the processor."""
    if isinstance(answer, dict):
        return {name: rounded(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [rounded(value) for value in answer]
    return round(answer, 5) + 0.0 if isinstance(answer, float) else answer


class Guide:
    """A page that is being followed, in a folder of its own."""

    def __init__(self, url: str, serve: Serve, folder: Path) -> None:
        self.url = url
        self.printed: str | None = None
        self._serve = serve
        self._folder = folder
        self._names: dict[str, Any] = {}

    def follow(self, page: str) -> None:
        """Run each block, and compare what it prints with the block behind it."""
        readers: dict[str, Callable[[str], Any]] = {"yaml": yaml.safe_load, "toml": tomllib.loads}
        with ExitStack() as self._services:
            for kind, block in blocks(page):
                if kind in RUN:
                    getattr(self, f"_{kind}")(WRITTEN_URL.sub(self.url, block))
                elif kind in readers:
                    assert readers[kind](block)
                else:
                    self._compare(kind, block)

    def _compare(self, kind: str, block: str) -> None:
        assert self.printed is not None, f"nothing has printed:\n{block}"
        if kind == "json":
            assert rounded(json.loads(self.printed)) == rounded(json.loads(block))
        else:
            assert kind == "text", f"a block without a language that is known:\n{block}"
            assert self.printed == block
        self.printed = None

    def _python(self, block: str) -> None:
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(block, "a page", "exec"), self._names)
        self.printed = out.getvalue()

    def _console(self, block: str) -> None:
        command, *shown = block.removeprefix("$ ").splitlines()
        self._command(shlex.split(command))
        assert shown
        assert self.printed.splitlines()[: len(shown)] == shown

    def _bash(self, block: str) -> None:
        lines = block.splitlines()
        if any("rope-service serve" in line for line in lines):
            for line in lines:
                (install if line.startswith("pip ") else self._start)(line)
        elif len(lines) == 1 and re.fullmatch(r"(\w+=\w+ )*rope-service [^|<>&$]*", lines[0]):
            self._command(shlex.split(lines[0]))
        else:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-ec", block],
                cwd=self._folder,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
            self.printed = done.stdout

    def _command(self, words: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
            while "=" in words[0]:
                patch.setenv(*words.pop(0).split("=", 1))
            assert words.pop(0) == "rope-service"
            code = run(words)
        assert code == 0 or (code == 1 and words[0] in MAY_DIFFER), (words, code, out.getvalue())
        self.printed = out.getvalue()

    def _start(self, line: str) -> None:
        *variables, program, command = line.split()
        assert (program, command) == ("rope-service", "serve")
        if variables:
            import ssl

            values = dict(variable.split("=", 1) for variable in variables)
            values = {name: str(self._folder / value) for name, value in values.items()}
            tls = ssl.create_default_context(cafile=values["ROPE_TLS_CERT_FILE"])
            started = self._services.enter_context(self._serve(tls=tls, **values))
            self.url = started.url


def install(line: str) -> None:
    """Check that what a line installs is there; `make install-test` installs it."""
    program, verb, *targets = shlex.split(line)
    assert (program, verb) == ("pip", "install")
    for target in targets:
        folder, _, extra = target.partition("[")
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        assert not extra or extra.removesuffix("]") in project["optional-dependencies"]
