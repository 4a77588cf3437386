"""Each command and program of the READMEs, tutorials and how-tos runs, and prints its answer."""

import re

import pytest
import torch

from docs.lessons import FOLDER, figures
from service.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.guide import FENCE, RUN, Guide, blocks
from tests.test_examples import PROGRAMS

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [
        ROOT / "README.md",
        *sorted((ROOT / "docs" / "learn").glob("*.md")),
        *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    ]
    if ".zh." not in path.name
}
CHINESE = [ROOT / "README.md", ROOT / "docs" / "learn" / "euler-to-rope.md"]
CLIENTS = PAGES["docs/how-to/call-from-other-languages.md"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_from_top_to_bottom(name, server_url, serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Guide(server_url, serve, tmp_path).follow(PAGES[name])


def test_a_page_that_prints_something_else_is_refused(server_url, serve, tmp_path):
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    with pytest.raises(AssertionError):
        Guide(server_url, serve, tmp_path).follow(page)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_command_outside_its_blocks(name):
    rest = FENCE.sub("", PAGES[name])
    assert not re.search(r"^(    |\t)\S", rest, re.MULTILINE), "an indented block is not run"
    assert "```" not in rest


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_the_chinese_page_has_the_blocks_of_the_english_one(page):
    chinese = page.with_suffix(".zh.md").read_text()
    assert blocks(chinese) == blocks(page.read_text())
    assert chinese.count("\n## ") == page.read_text().count("\n## ")


def test_each_how_to_says_the_task_first():
    for name, page in PAGES.items():
        title, first = re.match(r"# (.+)\n\n(.+(?:\n.+)*)", page).groups()
        assert not first.startswith(("#", "```", "|", "!")), title
        assert not name.startswith("docs/how-to/") or re.search(r"\b[Yy]ou\b", first), title


def test_variables_of_the_pages_are_settings():
    names = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for page in PAGES.values():
        assert {*re.findall(r"\bROPE_[A-Z_]+", page)} <= names


def test_the_page_of_languages_names_programs_that_are_tested():
    named = {*re.findall(r"`[^`]*examples/clients/([\w.]+)[^`]*`", CLIENTS)}
    assert named == {program.file for program in PROGRAMS} - {"with_tritonclient.py"}
    languages = re.findall(r"^\| (\w\S*) \| .+ \| `", CLIENTS, re.MULTILINE)
    assert languages == ["Python", "JavaScript", "Go", "Java", "C++", "Rust", "shell"]


NUMBER = re.compile(r"-?\d+\.?\d*")


def test_the_figures_of_the_lessons_are_up_to_date():
    drawn = figures()
    assert {file.name for file in FOLDER.iterdir()} == drawn.keys(), "run `python -m docs.lessons`"
    for name, now in drawn.items():
        then = (FOLDER / name).read_text()
        assert NUMBER.sub("0", now) == NUMBER.sub("0", then), name
        pairs = zip(NUMBER.findall(now), NUMBER.findall(then), strict=True)
        assert all(abs(float(a) - float(b)) < 0.11 for a, b in pairs), name


def test_runnable_blocks_are_there():
    assert sum(kind in RUN for page in PAGES.values() for kind, _ in blocks(page)) > 40
