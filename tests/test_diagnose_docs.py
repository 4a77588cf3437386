"""The pages about diagnose: their programs run, their commands work, the mistakes are all there."""

import json
import re
import shlex
from dataclasses import asdict

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot

import rope_core
from docs.mistake_pages import DATA, FOLDER, mistake_data, mistake_pages
from rope_core import diagnose, plots
from rope_core.diagnosis.mistake import CODES, PARTS
from rope_core.diagnosis.mistakes import MISTAKES
from service.cli.app import run
from tests.conftest import ROOT

mpl.use("Agg")

PORT = (ROOT / "docs" / "port.md").read_text()
BLOCKS = re.findall(r"```(python|bash|text|console)\n(.*?)```", PORT, re.DOTALL)
OTHERS = {
    name: re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)
    for name in ("diagnose.md", "selftest.md", "figures.md")
}


def test_the_pages_of_mistakes_are_up_to_date():
    written = {file.name: file.read_text() for file in FOLDER.iterdir()}
    assert written == mistake_pages(), "run `make docs`"
    assert DATA.read_text() == mistake_data(), "run `make docs`"


@pytest.mark.parametrize("code", CODES)
def test_each_mistake_has_all_parts(code):
    mistake = MISTAKES[code]
    assert [part for part in PARTS if not mistake.parts.get(part)] == []
    assert mistake.summary.endswith(".")
    assert mistake.remedy.endswith(".")


def test_the_case_runs_from_symptom_to_remedy(tmp_path, monkeypatch, capsys):
    """Programs print what the page says; the first command finds a difference, the second none."""
    monkeypatch.chdir(tmp_path)
    diagnose, found = rope_core.diagnose, {}

    def diagnose_once(rope, **evidence):  # commands and programs have the same numbers
        key = evidence["after"].numpy().tobytes()
        if key not in found:
            found[key] = diagnose(rope, **evidence)
        return found[key]

    monkeypatch.setattr(rope_core, "diagnose", diagnose_once)
    monkeypatch.setattr("service.endpoints.diagnosis.diagnose", diagnose_once)
    names: dict[str, object] = {}
    codes = []
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/port.md", "exec"), names)
        elif kind == "text":
            assert capsys.readouterr().out == block
        else:
            command, *shown = block.removeprefix("$ ").splitlines()
            program, *arguments = shlex.split(command)
            assert program == "rope-service"
            codes.append(run(arguments))
            assert len(shown) == (4 if kind == "console" else 0)
            printed = capsys.readouterr().out
            assert all(line in printed for line in shown)
    assert codes == [1, 0]
    assert len(found) == 2


def test_the_request_of_the_page_is_answered_as_the_page_says():
    """The library gives the members that the page shows of the answer over HTTP."""
    page = (ROOT / "docs" / "diagnose.md").read_text()
    body = json.loads(re.search(r"-d '(.*?)'", page)[1])
    shown = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    found = diagnose(body["rope"], inv_freq=torch.tensor(body["inv_freq"]))
    assert found.verdict == shown["verdict"]
    assert [asdict(m) for m in found.explanations[0].mistakes] == shown["explanations"][0][
        "mistakes"
    ]


@pytest.mark.parametrize("page", OTHERS)
def test_the_programs_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved: list[str] = []
    monkeypatch.setattr(plots, "save", lambda ax, path: saved.append(path))  # rendering is slow
    names: dict[str, object] = {}
    for program in OTHERS[page]:
        exec(compile(program, page, "exec"), names)
    pyplot.close("all")
    pictures = re.findall(r"\]\(figures/(.+?)\)", (ROOT / "docs" / page).read_text())
    assert saved[: len(pictures)] == pictures
    if page == "selftest.md":
        names["test_rotation"](lambda x, at: names["rotate"](x, positions=at, rope=names["model"]))
        with pytest.raises(AssertionError, match="diagnose"):
            names["test_rotation"](lambda x, at: x)
