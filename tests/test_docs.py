"""The documentation agrees with the code."""

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rope_core
import service.errors
import service.oip.errors
import service.sessions.errors
from docs.alert_pages import alerts, alerts_page
from docs.error_examples import ROWS, Example
from docs.generate import (
    ERROR_EXAMPLES,
    catalogue_page,
    clients_page,
    error_examples,
    errors_page,
    metrics_page,
    settings_page,
)
from docs.metric_guide import ADVICE
from service.asgi.problems import PROBLEMS
from service.endpoints.rope_params import Model, PresetModel, Rope
from service.endpoints.table import ENDPOINTS
from service.oip.errors import STATUSES
from service.settings import PREFIX, Settings
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
CATALOGUE = (ROOT / "docs" / "catalogue.md").read_text()
CURLS = re.findall(r"^    (curl .*(?:\n      .*)*)", API, re.MULTILINE)


@pytest.mark.parametrize("command", CURLS)
def test_the_commands_of_the_api_page_work(server_url, command, tmp_path):
    heads = {name: np.ones((1, 4, 2, 128), np.float32) for name in "qkv"}
    save_file(heads, tmp_path / "qkv.safetensors")
    save_file({name: heads[name] for name in "qk"}, tmp_path / "own.safetensors")
    command = command.replace("http://127.0.0.1:8000", server_url).replace("curl", "curl -f", 1)
    ran = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    written = re.search(r" -o (\S+)", command)
    assert load_file(tmp_path / written[1]) if written else json.loads(ran.stdout)


def test_the_example_of_a_config_runs(server_url):
    program = ROOT / "examples" / "resolve_a_config.py"
    command = [sys.executable, program, "--url", server_url]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "rope_theta" in ran.stdout


def test_the_settings_page_is_up_to_date():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "run `make docs`"


def test_the_catalogue_page_is_up_to_date():
    assert catalogue_page() == CATALOGUE, "run `make docs`"


def test_the_clients_page_contains_the_example_programs():
    page = (ROOT / "docs" / "clients.md").read_text()
    assert page == clients_page(), "run `make docs`"
    for program in (ROOT / "examples" / "clients").iterdir():
        assert program.read_text() in page, program.name


def test_the_api_page_has_every_error_code():
    for status, code in PROBLEMS.values():
        assert re.search(rf"\| {status.value} \|[^\n]*`{code}`", API), code


def test_the_api_page_has_every_route_tensor_and_parameter():
    for endpoint in ENDPOINTS:
        assert f"POST {endpoint.path}`" in API
        for name in (*endpoint.names, *endpoint.outputs, *endpoint.params.model_fields):
            assert f"`{name}`" in API + CATALOGUE, name
    for form in (Rope, Model, PresetModel):
        for name in form.model_fields:
            assert f"`{name}`" in API, name
    for path in ("/v1/presets", "/v1/variants"):
        assert f"`GET {path}`" in API


def test_every_documented_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text(), *docs()):
        assert set(re.findall(r"\bmake ([a-z-]+)\b(?=`|\s+#)", page)) <= targets


MARKDOWN = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "clients/python/README.md"]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-")
        taken = sum(anchor == name or anchor.startswith(f"{name}-") for anchor in found)
        found.add(f"{name}-{taken}" if name in found else name)
    return found


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_the_list_of_decisions_is_complete():
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = {f.name: f.read_text().partition("\n")[0][2:] for f in folder.glob("0*.md")}
    assert {file: title for title, file in listed} == titles


def docs() -> list[str]:
    return [page.read_text() for page in (ROOT / "docs").rglob("*.md")]


def test_the_changelog_has_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog
    assert service.__version__ == "0.1.0" or f"## [{service.__version__}]" in changelog


def test_the_library_exports_what_its_package_imports():
    tree = ast.parse((ROOT / "rope_core" / "__init__.py").read_text())
    imported = [a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(rope_core.__all__) == sorted(imported)


def error_classes() -> set[type[Exception]]:
    """Return the classes of errors with a status of their own."""
    bases = (rope_core.errors.RopeError, service.errors.ServiceError, service.errors.ClientLeft)
    same_status = (
        service.errors.MissingTensor,
        service.errors.ConflictingTensors,
        service.sessions.errors.OperationTimedOut,
        service.sessions.errors.SessionError,
    )
    return {
        member
        for module in (
            rope_core.errors,
            service.errors,
            service.oip.errors,
            service.sessions.errors,
        )
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, Exception)
    }.difference(bases, same_status)


def test_each_error_class_has_a_status():
    assert error_classes() == {*PROBLEMS, *STATUSES}


def test_each_error_class_has_one_row_in_the_errors_page():
    assert len(ROWS) == len(error_classes())
    assert {row.error for row in ROWS} == error_classes()


GENERATED = [("alerts", alerts_page), ("errors", errors_page), ("metrics", metrics_page)]


@pytest.mark.parametrize(("name", "page"), GENERATED)
def test_the_pages_of_alerts_errors_and_metrics_are_up_to_date(name, page):
    assert (ROOT / "docs" / f"{name}.md").read_text() == page(), "run `make docs`"


def test_the_page_of_alerts_has_each_alert_with_its_meaning_and_first_action():
    rows = dict(
        re.findall(r"^\| `(Rope\w+)` \| \d+m \| (.+ \| .+) \|$", alerts_page(), re.MULTILINE)
    )
    assert rows.keys() == {rule["alert"] for rule in alerts()}
    for name, cells in rows.items():
        assert "{{" not in cells, name
        for text in cells.split(" | "):
            assert len(text.split()) >= 4, (name, text)
            assert text.endswith("."), (name, text)


def test_the_examples_of_errors_in_openapi_are_up_to_date():
    assert ERROR_EXAMPLES.read_text() == error_examples(), "run `make docs`"


def test_each_metric_says_what_it_means_when_to_worry_and_what_to_do():
    rows = re.findall(r"^\| `(\w+)` \|(.*) \|$", metrics_page(), re.MULTILINE)
    names = [name for name, cells in rows if cells.count(" | ") == 4]
    assert {*names} == ADVICE.keys(), "each metric, and no other"
    for name, cells in rows:
        if name in names:
            meaning, worry, action = cells.split(" | ")[2:]
            for text in (meaning, worry, action):
                assert len(text) >= 10, (name, text)
            assert len(meaning.split()) >= 3, (name, meaning)
            assert worry.endswith("."), (name, worry)
            assert action.endswith("."), (name, action)


def test_the_advice_names_settings_and_metrics_that_exist():
    text = " ".join(part for advice in ADVICE.values() for part in advice)
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert {*re.findall(r"ROPE_[A-Z_]+", text)} <= settings
    metrics = {*re.findall(r"\b(?:rope|nv_inference)_\w+", text)} - {"rope_build_info"}
    assert metrics <= ADVICE.keys()


def test_an_example_with_another_error_than_its_row_is_refused(monkeypatch):
    row = ROWS[0]
    wrong = dataclasses.replace(row, examples=(Example("POST /v1/rotate", {}),))
    monkeypatch.setattr("docs.error_examples.ROWS", (wrong,))
    with pytest.raises(AssertionError, match="shape"):
        errors_page()


def test_public_functions_have_docstrings():
    for package in ("rope_core", "service"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    # the last of several overloads has the docstring of all
                    is_overload = any(
                        getattr(d, "id", "") == "overload" for d in node.decorator_list
                    )
                    public = not node.name.startswith("_") and not is_overload
                    assert not public or ast.get_docstring(node), f"{file.name}: {node.name}"
