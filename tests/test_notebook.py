"""The notebook of the examples runs, and prints what it shows."""

import pytest

pytest.importorskip("nbclient", reason="nbclient not installed: pip install '.[docs]'")
pytest.importorskip("ipykernel", reason="ipykernel not installed: pip install '.[docs]'")

import nbformat

from docs.notebook import NOTEBOOK, printed, run


def test_the_notebook_runs_and_prints_what_it_shows(server_url):
    shown = nbformat.read(NOTEBOOK, as_version=4)
    notebook = run(server_url)
    assert printed(notebook) == printed(shown)
    kinds = [{*o.get("data", {})} for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("image/png" in kind for kind in kinds) == 2
    assert sum("text/html" in kind for kind in kinds) == 1
