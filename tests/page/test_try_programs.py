"""The programs of the Try view: each runs, and prints the numbers of the page."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.page.test_try import numbers, own, send
from tests.test_examples import CPP, GO, JAVA, NODE, ROOT, ROPE_CLIENT, RUST, SH, Tool, run

HTTPX = Tool("httpx", "python {file}", probe="python -", probe_input="import httpx, safetensors")
TOOLS = {
    "curl": ("request.sh", SH),
    "curl-safetensors": ("request.sh", SH),
    "python": ("request.py", ROPE_CLIENT),
    "httpx": ("request.py", HTTPX),
    "javascript": ("request.mjs", NODE),
    "go": ("request.go", GO),
    "java": ("Request.java", JAVA),
    "cpp": ("request.cpp", CPP),
    "rust": ("request.rs", RUST),
}
FLOAT = r"-?\d+\.?\d*(?:[eE][-+]?\d+)?"

ROTATED = own(
    "POST /v1/rotate",
    t_q="normal float32 1,3,8,128 5",
    t_k="ones float32 1,3,2,128",
    t_positions="values int64 [[1000, 7, 131071]]",
    p_rope="llama-3.1-8b",
    p_inverse="true",
)
HALVES = own(
    "POST /v1/attention",
    t_q="normal bfloat16 1,4,2,8 1",
    t_k="normal bfloat16 1,4,2,8 2",
    t_v="arange bfloat16 1,4,2,8",
    t_mask="values bool [[false, true, true, true], [true, false, true, true], "
    "[true, true, true, true], [false, true, true, false]]",
    p_rope='{"rope_type": "linear", "factor": 4, "theta": 10000}',
    p_causal="false",
)
FLOAT16 = own(
    "POST /v1/shift",
    t_k="normal float16 2,3,1,8 3",
    t_delta="values int64 -5",
    p_rope='{"theta": 100}',
)
SUMMARY = {"route": "POST /v1/resolve"}
SESSION = {"route": "POST /v1/sessions"}

TOLERANCES = {"rotated": 2e-6, "halves": 1e-2, "float16": 1e-3, "summary": 2e-6, "session": 0}
"""numpy prints numbers of narrow dtypes with fewer digits than the page."""

CASES = [
    *[("rotated", ROTATED, name) for name in TOOLS],
    *[("halves", HALVES, name) for name in ("curl", "python")],
    *[("float16", FLOAT16, name) for name in ("javascript", "rust")],
    *[("summary", SUMMARY, name) for name in ("curl-safetensors",)],
    *[("session", SESSION, name) for name in ("curl", "javascript")],
]


class Pages:
    """Opens each request once, sends it, and reads its programs."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def program(self, open_view: Any, name: str, fragment: dict[str, object], language: str) -> Any:
        key = f"{name} {language}"
        if key not in self._found:
            self._read(open_view, name, fragment)
        return self._found[key]

    def _read(self, open_view: Any, name: str, fragment: dict[str, object]) -> None:
        page = send(open_view("try", fragment=fragment))
        tensors = page.locator(".answer-tensor").all()
        shown = {
            tensor.get_attribute("aria-label"): (
                re.search(r"\[([\d, ]*)\]", tensor.locator(".facts").inner_text())[1],
                numbers(tensor.locator(".first code").inner_text()),
            )
            for tensor in tensors
        }
        for language in TOOLS:
            page.click(f"#tab-{language}")
            page.wait_for_selector(f"#tab-{language}[aria-selected=true]")
            page.wait_for_selector("#program pre, #program p")
            code = page.evaluate(
                """async (language) => {
                    await import(`./snippets/${language}.js`);
                    await new Promise(requestAnimationFrame);
                    await new Promise(requestAnimationFrame);
                    return document.querySelector("#program code")?.textContent ?? null;
                }""",
                language,
            )
            self._found[f"{name} {language}"] = shown, code


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


def start(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = command.split()
    words[0] = sys.executable if words[0] == "python" else words[0]
    path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("case", "fragment", "language"), CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES]
)
def test_a_program_prints_what_the_page_shows(open_view, pages, case, fragment, language, tmp_path):
    file, tool = TOOLS[language]
    paths = {"file": tmp_path / file, "out": tmp_path / "program", "name": Path(file).stem}
    if run(tool.probe, tool.probe_input, **paths).returncode:
        pytest.skip(f"{language} needs {tool.needs}")
    shown, code = pages.program(open_view, case, fragment, language)
    (tmp_path / file).write_text(code)
    if tool.build:
        built = start(tool.build.format(**paths), tmp_path)
        assert built.returncode == 0, built.stderr
        assert "warning" not in built.stderr
    done = start(tool.run.format(**paths), tmp_path)
    assert done.returncode == 0, done.stderr
    if not shown:
        assert '"id":"r1.' in done.stdout
        return
    # programs that print the text of an answer stop after 600 characters: in the first tensor
    whole = not done.stdout.startswith("{")
    for name, (shape, values) in list(shown.items())[: None if whole else 1]:
        assert find_numbers(done.stdout, name) == pytest.approx(values, rel=TOLERANCES[case])
        printed = re.search(rf'\b{name}\b"?:? ?(?:{{.*?"shape":)?[(\[]([^)\]]*)', done.stdout)
        assert re.findall(r"\d+", printed[1]) == re.findall(r"\d+", shape)


def find_numbers(printed: str, name: str) -> list[float]:
    """Return the first eight numbers of a tensor that a program printed."""
    if printed.startswith('{"__metadata__"'):  # the header, and then the numbers
        return [float(each) for each in re.findall(FLOAT, printed.split("}}")[-1])][:8]
    if found := re.search(rf'"{name}":{{.*?"data":\[([^\]]*)', printed):
        return [float(each) for each in re.findall(FLOAT, found[1])][:8]
    (line,) = re.findall(rf"^{name} [(\[][^)\]]*[)\]](.*)$", printed, re.MULTILINE)
    return [float(each) for each in re.findall(FLOAT, line)]


def test_a_request_that_no_formula_makes_is_saved(open_view, tmp_path):
    fragment = own(
        "POST /v1/rotate",
        t_q="values float16 [[[0.1, 0.2, 0.3, 0.4]], [[1, 2, 3, 4]]]",
        p_rope="{}",
    )
    page = send(open_view("try", fragment=fragment | {"code": "httpx"}))
    expected = numbers(page.locator(".first code").inner_text())
    (tmp_path / "request.py").write_text(page.locator("#program code").text_content())
    with page.expect_download() as download:
        page.get_by_role("button", name="Save request.safetensors").click()
    download.value.save_as(tmp_path / "request.safetensors")
    done = start("python request.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert find_numbers(done.stdout, "q") == pytest.approx(expected, rel=1e-3)


def test_copy_takes_the_program(open_view):
    page = open_view(
        "try", fragment={"code": "python"}, permissions=["clipboard-read", "clipboard-write"]
    )
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#program code").text_content()
    assert "from rope_client import Client" in copied


def test_a_program_never_has_the_key(open_view):
    script = "sessionStorage.setItem('rope-key', 'secret-of-mine')"
    page = open_view("try", before=lambda page: page.add_init_script(script))
    for language in TOOLS:
        page.click(f"#tab-{language}")
        page.wait_for_selector(f"#tab-{language}[aria-selected=true]")
        page.get_by_text("ROPE_API_KEY").first.wait_for()
        assert "secret-of-mine" not in page.content()
