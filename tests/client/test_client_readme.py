"""The programs in the README of the client run."""

import re

import pytest

from tests.conftest import ROOT

README = ROOT / "clients" / "python" / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["first", "torch", "diagnose", "progress_bar"])
def test_a_program_of_the_readme_runs(server_url, program):
    url = "http://127.0.0.1:8000"
    assert url in program
    exec(program.replace(url, server_url).replace("1_000", "200"), {})
