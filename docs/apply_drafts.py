"""Write the parts of diagnose-drafts.md into the docstrings of mistakes; delete both afterwards."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "diagnose-drafts.md").read_text(), flags=re.MULTILINE)
DRAFTS = {name: body.strip("\n") for name, _, body in (s.partition("\n") for s in SECTIONS[1:])}


def apply(file: Path) -> None:
    """Replace what follows the first paragraph of each docstring."""
    text = file.read_text()
    lines = text.splitlines()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    for function in reversed(functions):
        if function.name in DRAFTS and ast.get_docstring(function):
            docstring = function.body[0]
            start, end = docstring.lineno - 1, docstring.end_lineno
            blank = next(i for i in range(start, end) if not lines[i].strip())
            lines[blank + 1 : end - 1] = DRAFTS.pop(function.name).splitlines()
    file.write_text("\n".join(lines) + "\n")


for file in (ROOT / "rope_core" / "diagnosis" / "mistakes").glob("*.py"):
    apply(file)
assert not DRAFTS, f"no such mistake: {[*DRAFTS]}"
