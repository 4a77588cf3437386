"""The recipes of docs/library.md run."""

import json
import re
import warnings

import pytest

from rope_core.presets import built_in
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "library.md").read_text()
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
RECIPES = {
    section.partition("\n")[0]: recipe
    for section in SECTIONS
    for recipe in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
}


def test_there_are_an_introduction_and_six_recipes():
    assert len(RECIPES) == PAGE.count("```python") == 7


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_runs_without_warnings(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dict(built_in()["llama-3.2-1b"].config)))
    with warnings.catch_warnings(action="error", category=UserWarning):
        exec(compile(recipe, "docs/library.md", "exec"), {})
