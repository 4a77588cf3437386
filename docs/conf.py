"""The site of the documentation, from the Markdown that GitHub shows: `make site`.

The source folder is the whole repository, so links to README.md and to examples are checked.
"""

import re
import sys
from pathlib import Path
from typing import Any

from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import service  # noqa: E402  (its version)

project = "rope-service"
author = "the authors of rope-service"
release = service.__version__
extensions = ["myst_parser", "sphinx_design"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "README.zh.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "clients/python/README.md",
]
READ = {"docs", "clients"}
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in READ]

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_links_external_new_tab = False
suppress_warnings = ["misc.highlighting_failure"]  # console output, JSON with "..."

FONT = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei", '
    '"Noto Sans CJK SC", sans-serif'
)
SHARED = {
    "font-stack": FONT,
    "font-stack--monospace": "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace",
    "api-font-size": "1rem",
}
html_theme = "furo"
html_show_copyright = False
html_favicon = "site/favicon.svg"
html_title = "rope-service"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["site"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": SHARED
    | {
        "color-brand-primary": "#0060a8",
        "color-brand-content": "#0060a8",
        "color-brand-visited": "#5b4a9a",
        "color-background-primary": "#fcfcfa",
        "color-foreground-primary": "#16191d",
        "color-foreground-secondary": "#4a525c",
    },
    "dark_css_variables": SHARED
    | {
        "color-brand-primary": "#6cb6f5",
        "color-brand-content": "#6cb6f5",
        "color-brand-visited": "#b9abf0",
        "color-background-primary": "#101317",
        "color-foreground-primary": "#e8eaec",
        "color-foreground-secondary": "#b3bac2",
    },
}

READMES = {"../README.md": "About", "../README.zh.md": "关于 (中文)"}
ITEM = re.compile(r"^- \[(.+?)\]\(([^)]+)\): (.+(?:\n  .+)*)$", re.MULTILINE)
LISTED = re.compile(r"docs/(mistakes|decisions)/(?!README)")
"""Pages that the README of their folder lists: the navigation of the site has the list alone."""


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make the navigation of the site from the links of the index.

    GitHub shows the lists of the index as they are; on the site, their items are cards.
    """
    if docname == root_doc:
        intro, *sections = re.split(r"^(?=## )", source[0], flags=re.MULTILINE)
        parts = [
            cards(part) + toctree(part[3:].partition("\n")[0], titles_of(part)) for part in sections
        ]
        source[0] = intro + toctree("", READMES) + "".join(parts)
    elif LISTED.match(docname):
        source[0] = "---\norphan: true\n---\n" + source[0]


def cards(text: str) -> str:
    """Return the text with its list as a grid of cards."""
    items = ITEM.findall(text)
    if not items:
        return text
    grid = "".join(
        f":::{{grid-item-card}} {title}\n:link: {link.removesuffix('.md')}\n:link-type: doc\n\n"
        f"{capitalized(' '.join(summary.split()))}\n:::\n"
        for title, link, summary in items
    )
    return ITEM.sub("", text) + f"\n::::{{grid}} 1 2 2 3\n:gutter: 2\n\n{grid}::::\n\n"


def titles_of(text: str) -> dict[str, str]:
    """Return the titles of the cards by page: the navigation has the same."""
    return {link: title for title, link, _ in ITEM.findall(text)}


def capitalized(text: str) -> str:
    """Return a text that begins with a capital; code stays as it is."""
    return text[:1].upper() + text[1:]


def toctree(caption: str, titles: dict[str, str]) -> str:
    """Return a hidden table of contents."""
    names = [f"{title} <{link.removesuffix('.md')}>" for link, title in titles.items()]
    option = f":caption: {caption}\n" if caption else ""
    return f"\n\n```{{toctree}}\n:hidden:\n{option}\n" + "\n".join(names) + "\n```\n\n"


APPLIED = re.compile(r"(</mi>\s*)?(<mi>[a-z]{2,}</mi>\s*<mo>&ApplyFunction;</mo>)(\s*<mo[^>]*>\()?")
THIN = '<mspace width="0.17em"/>'


def mathml(formula: str, as_block: bool) -> str:
    """Return a formula as MathML, with thin spaces around the name of a function.

    Browsers put `<mi>sin</mi>` next to the letters before and behind it.
    """

    def spaced(found: re.Match[str]) -> str:
        before, name, bracket = found.groups(default="")
        return f"{before}{THIN * bool(before)}{name}{bracket or THIN}"

    return APPLIED.sub(spaced, tex2mathml(formula, as_block=as_block))


def visit_math(self: Any, node: Any) -> None:
    """Write a formula as MathML: every browser draws it without a script."""
    self.body.append(mathml(node.astext(), as_block=False))
    raise_skip()


def visit_math_block(self: Any, node: Any) -> None:
    """Write a formula that stands alone as MathML."""
    self.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise_skip()


def raise_skip() -> None:
    """Leave the text of the formula out."""
    from docutils.nodes import SkipNode

    raise SkipNode


def write_root(app: Sphinx, exception: Exception | None) -> None:
    """Lead from the root of the site to its index."""
    if exception is None:
        page = '<!doctype html><meta charset="utf-8"><title>rope-service</title>\n'
        page += '<meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        page += '<a href="docs/index.html">rope-service</a>\n'
        (Path(app.outdir) / "index.html").write_text(page)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions of this file."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", write_root)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


html_math_renderer = "mathml"
