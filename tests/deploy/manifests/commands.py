"""Runs the `sh` blocks of a page with stand-ins for kubectl and helm, and checks each call.

A stand-in only records its arguments. This module then checks them: Helm's own engine renders the
chart with the values of the call; the real kubectl checks its flags, and makes the objects that
need no cluster; names and labels must be those of objects that earlier commands have made.
"""

import json
import os
import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import helm_python
import yaml

from tests.deploy.manifests import kserve
from tests.deploy.manifests.render import CHART, ROOT, merge, render
from tests.deploy.manifests.schemas import schema_errors

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KSERVE_KINDS = {"ServingRuntime", "ClusterServingRuntime", "InferenceService"}
STAND_IN = """#!/usr/bin/python3 -SE
import json, os, sys
stdin = sys.stdin.read() if "-" in sys.argv else ""
call = {"program": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:], "stdin": stdin}
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(call) + "\\n")
"""
HELM = {
    "repo": set(),
    "upgrade": {
        *("--install", "--namespace", "--values", "--set", "--set-string", "--wait"),
        *("--timeout", "--reset-then-reuse-values", "--version"),
    },
    "rollback": {"--namespace", "--wait", "--timeout"},
    "test": {"--namespace"},
    "uninstall": {"--namespace"},
}
"""The commands of Helm that pages use, and their flags."""
FLAGS_WITHOUT_VALUE = {"--install", "--wait", "--reset-then-reuse-values"}


def calls(page: str, folder: Path) -> list[dict[str, Any]]:
    """Run each block `sh` in a folder, and return the calls of kubectl and helm."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("kubectl", "helm"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (folder / "deploy").symlink_to(ROOT / "deploy")
    notes = folder / "calls.jsonl"
    notes.touch()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(notes)}
    for block in BLOCK.findall(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return [json.loads(line) for line in notes.read_text().splitlines()]


class Cluster:
    """The objects that the commands of a page would have made."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = {"inferenceservice", "namespace"}
        """Such as `deployment/rope-service`."""
        self.labels: list[dict[str, str]] = []
        """Labels of the pods of each workload."""
        self.releases: dict[str, dict[str, Any]] = {}
        """Values of each installed release."""
        self._folder = folder

    def run(self, call: dict[str, Any]) -> None:
        """Check a call, and record the objects that it makes."""
        getattr(self, call["program"])(call["arguments"], call["stdin"])

    def helm(self, arguments: list[str], stdin: str) -> None:
        """Check a call of helm: its flags, its release, and the objects of an upgrade."""
        verb, *rest = arguments
        flags: dict[str, list[str]] = {}
        words = []
        while rest:
            word = rest.pop(0)
            if word.startswith("--"):
                assert word in HELM[verb], f"helm {verb} has no {word}"
                flags.setdefault(word, []).append(
                    "" if word in FLAGS_WITHOUT_VALUE else rest.pop(0)
                )
            else:
                words.append(word)
        if verb == "repo":
            assert words[0] in ("add", "update")
            return
        if verb != "upgrade":
            assert words[0] in self.releases, f"{words[0]} is not installed"
            return
        name, chart = words
        [namespace] = flags["--namespace"]
        assert f"namespace/{namespace}" in self.names
        assert ("--install" in flags) or name in self.releases
        old = self.releases.get(name, {}) if "--reset-then-reuse-values" in flags else {}
        if (ROOT / chart).is_dir():
            assert ROOT / chart == CHART
            files = [
                yaml.safe_load((self._folder / file).read_text())
                for file in flags.get("--values", [])
            ]
            sets = [
                *map(helm_python.parse_set_string, flags.get("--set", [])),
                *(_as_strings(text) for text in flags.get("--set-string", [])),
            ]
            self.releases[name] = merge(old, *files, *sets)
            for made in render(self.releases[name], name, namespace):
                self.add(made)
        else:
            self.releases[name] = {}

    def kubectl(self, arguments: list[str], stdin: str) -> None:
        """Check a call of kubectl: its flags, and that the objects it names exist."""
        words = _without_flags(arguments)
        verb = words[0]
        if verb == "create":
            self.add(_created_by_kubectl(arguments, self._folder))
            return
        if verb == "apply":
            files = [file for file in words[1:] if not (self._folder / file).is_dir()]
            texts = [stdin if file == "-" else (self._folder / file).read_text() for file in files]
            folders = [file for file in words[1:] if file not in files]
            texts += [_kustomized(self._folder / file) for file in folders]
            assert texts
            for made in (each for text in texts for each in yaml.safe_load_all(text)):
                self.add(made)
            return
        if verb == "kustomize":
            assert _kustomized(self._folder / words[1])
            return
        known = _help(verb, words[1] if verb in ("rollout", "config") else "")
        for flag in (each.partition("=")[0] for each in arguments if each.startswith("-")):
            assert re.search(rf"(^|\s){re.escape(flag)}\b", known), f"kubectl {verb} has no {flag}"
        for word in words[1:]:
            if re.fullmatch(r"\w+/[\w.-]+", word):
                assert word.lower() in self.names, f"nothing has made {word}: {self.names}"
        if verb in ("get", "delete") and len(words) > 2:
            kind, *names = words[1:]
            for name in names:
                assert f"{kind}/{name}" in self.names, f"nothing has made {kind} {name}"
        for flag, value in pairwise(arguments):
            if flag == "--selector":
                wanted = dict(each.split("=") for each in value.split(","))
                assert any(wanted.items() <= each.items() for each in self.labels), value

    def add(self, made: dict[str, Any]) -> None:
        """Check an object, and record its name and the labels of its pods."""
        kind, name = made["kind"], made["metadata"]["name"]
        self.names.add(f"{kind.lower()}/{name}")
        if kind in KSERVE_KINDS:  # tests/deploy/kserve_suite.py checks these
            if kind == "InferenceService":
                self._add_predictor(made)
            return
        assert schema_errors(made) == []
        if kind in ("Deployment", "StatefulSet"):
            self.labels.append(made["spec"]["template"]["metadata"]["labels"])

    def _add_predictor(self, service: dict[str, Any]) -> None:
        name = f"{service['metadata']['name']}-predictor"
        self.add(kserve.deployment(kserve.load("serving-runtime"), service))
        self.names.add(f"service/{name}")
        if "autoScaling" in service["spec"]["predictor"]:
            self.add(kserve.scaled_object(service))


def _as_strings(text: str) -> dict[str, Any]:
    path, _, value = text.partition("=")
    values: Any = value
    for key in reversed(path.split(".")):
        values = {key: values}
    return values


FLAGS_WITH_VALUE = {
    "--namespace",
    "-f",
    "-k",
    "--selector",
    "--output",
    "--timeout",
    "--tail",
    "-L",
}


def _without_flags(arguments: list[str]) -> list[str]:
    """Return the words that are no flags; files of `-f` are words as well."""
    words = []
    rest = [*arguments]
    while rest:
        word = rest.pop(0)
        if word == "-" or not word.startswith("-"):
            words.append(word)
        elif word in FLAGS_WITH_VALUE:
            value = rest.pop(0)
            words += [value] if word in ("-f", "-k") else []
    return words


def _created_by_kubectl(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Return the object that the real kubectl makes; it refuses wrong flags and missing files."""
    done = subprocess.run(
        ["kubectl", *arguments, "--dry-run=client", "-o", "yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def _kustomized(folder: Path) -> str:
    """Return what the real kubectl builds. It follows no links, so the tree is the real one."""
    text = (folder / "kustomization.yaml").read_text()
    with TemporaryDirectory(dir=folder.parent) as copy:
        path = os.path.relpath(ROOT / "deploy", copy)
        (Path(copy) / "kustomization.yaml").write_text(text.replace("../deploy", path))
        return _output("kustomize", copy)


@cache
def _help(verb: str, second: str) -> str:
    return _output(verb, *filter(None, [second]), "--help") + _options()


@cache
def _options() -> str:
    return _output("options")


def _output(*arguments: str) -> str:
    command = ["kubectl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
