"""Pages of the mistakes that `diagnose` knows: made from `rope_core.diagnosis.MISTAKES`."""

from collections.abc import Mapping
from pathlib import Path

from rope_core.diagnosis.mistake import Mistake
from rope_core.diagnosis.mistakes import MISTAKES

FOLDER = Path(__file__).parent / "mistakes"

INDEX = """# Mistakes

Made from the library by `make docs`: each mistake is a function in `rope_core/diagnosis/mistakes/`,
and its docstring is its page. [Diagnose](../diagnose.md) finds these mistakes in your numbers;
[My port is wrong](../port.md) walks through a real case.

The last column names the evidence that can show the mistake.

| code | what the code does | evidence |
|---|---|---|
"""

FRAMEWORKS = ("Hugging Face", "vLLM", "llama.cpp", "MLX")


def mistake_pages() -> Mapping[str, str]:
    """Return the text of each page of docs/mistakes/, by the name of its file."""
    pages = {f"{code}.md": mistake_page(mistake) for code, mistake in MISTAKES.items()}
    return {"README.md": INDEX + "".join(map(_row, MISTAKES.values())), **pages}


def write_mistake_pages() -> None:
    """Write all pages, and remove those of codes that no longer exist."""
    FOLDER.mkdir(exist_ok=True)
    pages = mistake_pages()
    for file in FOLDER.glob("*.md"):
        if file.name not in pages:
            file.unlink()
    for name, page in pages.items():
        (FOLDER / name).write_text(page)


def mistake_page(mistake: Mistake) -> str:
    """Return the page of a mistake."""
    parts = mistake.parts
    remedies = "".join(f"- **{name}.** {_sentence(parts[name])}\n" for name in FRAMEWORKS)
    return f"""# `{mistake.code}`

{mistake.summary}

Evidence that can show it: {", ".join(mistake.evidence)}. `diagnose` says:

> {mistake.text}

**Looks like.** {_sentence(parts["Looks like"])}

**Why it happens.** {_sentence(parts["Why"])}

**Remedy.** {mistake.remedy}

{remedies}
**Seen in.** {parts["Source"]}

[All mistakes](README.md) · [Diagnose](../diagnose.md)
"""


def _row(mistake: Mistake) -> str:
    evidence = ", ".join(mistake.evidence)
    return f"| [`{mistake.code}`]({mistake.code}.md) | {mistake.summary} | {evidence} |\n"


def _sentence(text: str) -> str:
    """Return the text of a part with a capital, unless it begins with code."""
    return text[:1].upper() + text[1:]
