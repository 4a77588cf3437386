"""What is documented is so."""

import ast
import json
import re
import subprocess
import sys

import pytest

import rope_core
import service.errors
from docs.generate import catalogue_page, clients_page, settings_page
from service.asgi.problems import RESPONSES
from service.endpoints.rope_params import Model, PresetModel, Rope
from service.endpoints.table import ENDPOINTS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
CATALOGUE = (ROOT / "docs" / "catalogue.md").read_text()
SNIPPETS = re.findall(r"```bash\n(.*?)```\s*```json\n(.*?)```", README, re.DOTALL)
CURLS = re.findall(r"^    (curl .*(?:\n      .*)*)", API, re.MULTILINE)


SNIPPET_IDS = ["rotate", "attention", "config", "preset", "resolve"]


def numbers(answer: object) -> object:
    """Round all numbers: their last digits are the processor's."""
    if isinstance(answer, dict):
        return {name: numbers(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [numbers(value) for value in answer]
    return round(answer, 5) if isinstance(answer, float) else answer


@pytest.mark.parametrize(("command", "printed"), SNIPPETS, ids=SNIPPET_IDS)
def test_the_readmes_commands_print_what_it_says(server_url, command, printed):
    command = command.replace("http://127.0.0.1:8000", server_url)
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert numbers(json.loads(ran.stdout)) == numbers(json.loads(printed))


@pytest.mark.parametrize("command", CURLS)
def test_the_commands_of_the_api_page_work(server_url, command):
    command = command.replace("http://127.0.0.1:8000", server_url).replace("curl", "curl -f", 1)
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)


def test_the_example_of_a_config_runs(server_url):
    program = ROOT / "examples" / "resolve_a_config.py"
    command = [sys.executable, program, "--url", server_url]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "rope_theta" in ran.stdout


def test_the_readmes_python_runs(server_url):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = program.replace("http://127.0.0.1:8000", server_url)
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_page_of_settings_is_up_to_date():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "run `make docs`"


def test_the_catalogue_is_up_to_date():
    assert catalogue_page() == CATALOGUE, "run `make docs`"


def test_the_page_of_clients_shows_the_programs_as_they_are():
    page = (ROOT / "docs" / "clients.md").read_text()
    assert page == clients_page(), "run `make docs`"
    for program in (ROOT / "examples" / "clients").iterdir():
        assert program.read_text() in page, program.name


def test_every_code_is_in_the_api_page():
    for _, status, code in RESPONSES:
        assert re.search(rf"\| {status.value} \|[^\n]*`{code}`", API), code


def test_every_route_tensor_and_parameter_is_in_the_api_page():
    for endpoint in ENDPOINTS:
        assert f"POST {endpoint.path}`" in API
        for name in (*endpoint.names, *endpoint.outputs, *endpoint.params.model_fields):
            assert f"`{name}`" in API + CATALOGUE, name
    for form in (Rope, Model, PresetModel):
        for name in form.model_fields:
            assert f"`{name}`" in API, name
    for path in ("/v1/presets", "/v1/variants"):
        assert f"`GET {path}`" in API


def test_every_make_target_of_the_documentation_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text(), *docs()):
        assert set(re.findall(r"\bmake ([a-z-]+)\b(?=`|\s+#)", page)) <= targets


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def docs() -> list[str]:
    return [page.read_text() for page in (ROOT / "docs").rglob("*.md")]


def test_the_changelog_knows_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog
    assert service.__version__ == "0.1.0" or f"## [{service.__version__}]" in changelog


def test_the_library_exports_what_its_face_imports():
    tree = ast.parse((ROOT / "rope_core" / "__init__.py").read_text())
    imported = [a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(rope_core.__all__) == sorted(imported)


def test_every_failure_has_a_status():
    named = {kind for kind, _, _ in RESPONSES}
    for module in (rope_core.errors, service.errors):
        for name, kind in vars(module).items():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                has_status = issubclass(kind, tuple(named))
                has_status = has_status or name in ("RopeError", "ServiceError", "ClientLeft")
                assert has_status, f"{name} would be answered with 500"


def test_public_functions_have_docstrings():
    for package in ("rope_core", "service"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    public = not node.name.startswith("_")
                    assert not public or ast.get_docstring(node), f"{file.name}: {node.name}"
