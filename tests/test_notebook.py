"""The notebook of the examples runs, and prints what it shows."""

import subprocess
import sys

import pytest

pytest.importorskip("nbclient", reason="nbclient not installed: pip install '.[docs]'")
pytest.importorskip("ipykernel", reason="ipykernel not installed: pip install '.[docs]'")

import nbformat

from docs.notebook import NOTEBOOK, printed
from tests.conftest import ROOT


def test_the_notebook_runs_and_prints_what_it_shows(server_url, tmp_path):
    file = tmp_path / "rope.ipynb"
    # in a process of its own, which ends with its sockets
    command = [sys.executable, "-m", "docs.notebook", server_url, str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    notebook = nbformat.read(file, as_version=4)
    assert printed(notebook) == printed(nbformat.read(NOTEBOOK, as_version=4))
    kinds = [{*o.get("data", {})} for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("image/png" in kind for kind in kinds) == 2
    assert sum("text/html" in kind for kind in kinds) == 1
