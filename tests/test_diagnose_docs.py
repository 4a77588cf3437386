"""The pages about diagnose: their programs run, their commands work, the mistakes are all there."""

import re
import shlex

import matplotlib as mpl
import pytest
from matplotlib import pyplot

import rope_core
from docs.mistake_pages import FOLDER, mistake_pages
from rope_core import plots
from rope_core.diagnosis.mistake import PARTS
from rope_core.diagnosis.mistakes import MISTAKES
from service.cli.app import run
from tests.conftest import ROOT

mpl.use("Agg")

PORT = (ROOT / "docs" / "port.md").read_text()
BLOCKS = re.findall(r"```(python|bash|text)\n(.*?)```", PORT, re.DOTALL)
OTHERS = {
    name: re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)
    for name in ("diagnose.md", "selftest.md", "figures.md")
}


def test_the_pages_of_mistakes_are_up_to_date():
    written = {file.name: file.read_text() for file in FOLDER.iterdir()}
    assert written == mistake_pages(), "run `make docs`"


@pytest.mark.parametrize("code", MISTAKES)
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
            program, *arguments = shlex.split(block)
            assert program == "rope-service"
            codes.append(run(arguments))
            printed = capsys.readouterr().out
            assert ("layout_swapped and scaling_ignored" in printed) == (codes == [1])
    assert codes == [1, 0]
    assert len(found) == 2


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
