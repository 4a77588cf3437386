"""The commands of docs/deploy/replicas.md, with a stand-in for docker that records each call."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.guide import blocks

PAGE = (ROOT / "docs" / "deploy" / "replicas.md").read_text()
COMMANDS = [block for kind, block in blocks(PAGE) if kind == "sh" and "docker" in block]
COMPOSE = ROOT / "deploy" / "haproxy" / "compose.yaml"
STAND_IN = """#!/usr/bin/python3 -SE
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps({"arguments": sys.argv[1:], "TAG": os.environ.get("TAG")}) + "\\n")
"""
FLAGS = {"-d", "--wait", "--no-deps", "--no-build"}
"""Flags of `docker compose up` in version 2. Version 1.29 has all but `--wait`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the page in a copy of deploy/haproxy."""
    made: Path = tmp_path_factory.mktemp("page")
    (made / "deploy" / "haproxy").mkdir(parents=True)
    (made / "deploy" / "haproxy" / "compose.yaml").write_text(COMPOSE.read_text())
    programs = made / "programs"
    programs.mkdir()
    (programs / "docker").write_text(STAND_IN)
    (programs / "docker").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CALLS": str(made / "calls")}
    for block in COMMANDS:
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(
            command, cwd=made, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return made


@pytest.fixture(scope="module")
def calls(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def test_compose_is_called_with_services_and_flags_that_exist(calls):
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ups = [call["arguments"] for call in calls if call["arguments"][0] == "compose"]
    assert len(ups) == 3
    for _, option, file, command, *rest in ups:
        assert (option, command) == ("-f", "up")
        assert (ROOT / file).is_file()
        assert {word for word in rest if word.startswith("-")} <= FLAGS
        assert {word for word in rest if not word.startswith("-")} <= services.keys()


def test_replicas_are_replaced_one_after_the_other_by_an_image_that_was_built(calls):
    built, last = set(), []
    for call in calls:
        arguments = call["arguments"]
        if arguments[0] == "build":
            built.add(arguments[arguments.index("-t") + 1])
        else:
            assert f"rope-service:{call['TAG'] or 'dev'}" in built, "the image was not built"
            last.append((call["TAG"], arguments[-1]))
    assert last == [(None, "--wait"), ("next", "rope-1"), ("next", "rope-2")]


def test_the_key_is_kept_with_the_tag_and_only_its_owner_can_read_it(folder):
    file = folder / "deploy" / "haproxy" / ".env"
    lines = file.read_text().splitlines()
    assert re.fullmatch("ROPE_SESSION_KEY=[0-9a-f]{64}", lines[0])
    assert lines[1:] == ["TAG=next"]
    assert file.stat().st_mode & 0o077 == 0
    assert "deploy/haproxy/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_names_in_text_are_those_of_the_files():
    text = COMPOSE.read_text()
    assert {*re.findall(r"`([A-Z]+_(?:PORT|IMAGE)|PORT|BIND)`", PAGE)} <= {
        *re.findall(r"\$\{(\w+):", text)
    }
    [addition] = [yaml.safe_load(block) for kind, block in blocks(PAGE) if kind == "yaml"]
    assert addition["services"].keys() < yaml.safe_load(text)["services"].keys()
