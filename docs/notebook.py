"""Run the notebook of the examples: `python -m docs.notebook [URL [FILE]]` writes its outputs.

It needs a running service, `nbclient` and `ipykernel` (the extra `docs`).
"""

import os
import sys
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "rope.ipynb"


def run(url: str) -> nbformat.NotebookNode:
    """Return the notebook with new outputs, without times and without the name of the machine."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    backend = "module://matplotlib_inline.backend_inline"  # another one would draw no pictures
    environment = {**os.environ, "SERVICE_URL": url, "MPLBACKEND": backend}
    NotebookClient(notebook, km=kernel, timeout=60).execute(env=environment)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = {}
        if printed := _printed_by(cell):
            others = [o for o in cell.outputs if o.output_type != "stream"]
            whole = nbformat.v4.new_output("stream", name="stdout", text=printed)
            cell.outputs = [whole, *others]  # the kernel sends a text in pieces
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the text that each cell prints, without pictures."""
    return [_printed_by(cell) for cell in notebook.cells]


def _printed_by(cell: nbformat.NotebookNode) -> str:
    outputs = cell.get("outputs", [])
    return "".join(each.text for each in outputs if each.output_type == "stream")


if __name__ == "__main__":
    url, file, *_ = [*sys.argv[1:], *("http://127.0.0.1:8000", NOTEBOOK)[len(sys.argv) - 1 :]]
    nbformat.write(run(str(url)), file)
