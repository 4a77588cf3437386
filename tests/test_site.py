"""The site of the documentation builds without a warning, and needs nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import ROOT

TOOLS = ("sphinx", "myst_parser", "furo", "sphinx_design")
MISSING = [name for name in TOOLS if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install '.[docs]'"
)
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "srcset"}


class Page(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.num_formulas = 0
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.num_formulas += tag == "math"
        self.anchors.update(v for v in (values.get("id"), values.get("name")) if v)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif value := values.get(LOADS.get(tag, "")):
            self.loads.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "-d"]
    done = subprocess.run(
        [*command, folder / "doctrees", ".", folder / "html"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Each page of the site."""
    return {file: Page(file) for file in site.rglob("*.html")}


def test_no_page_loads_anything_from_elsewhere(pages):
    assert len(pages) > 90
    for file, page in pages.items():
        outside = [u for u in page.loads if urlsplit(u).netloc or urlsplit(u).scheme == "http"]
        assert not outside, file.name


def test_no_style_or_script_loads_anything_from_elsewhere(site):
    for file in [*site.rglob("*.css"), *site.rglob("*.js")]:
        text = file.read_text()
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", text), file.name
        assert not re.search(r"(import|fetch|src\s*=)\s*\(?\s*[\"'](https?:)?//", text), file.name
    assert not [*site.rglob("*.woff*")]


def test_each_link_and_anchor_of_the_site_is_there(pages):
    broken = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                broken.append((file.name, link))
            elif parts.fragment and target in pages:
                anchors = pages[target].anchors | {"top"}
                broken += [(file.name, link)] * (unquote(parts.fragment) not in anchors)
    assert not broken


def test_formulas_are_mathml_and_need_no_script(site, pages):
    lessons = pages[site / "docs" / "learn" / "euler-to-rope.html"]
    assert lessons.num_formulas > 20
    assert not [url for page in pages.values() for url in page.loads if "mathjax" in url.lower()]


def test_the_site_has_the_five_sections(site):
    index = (site / "docs" / "index.html").read_text()
    captions = re.findall(r'<p class="caption"[^>]*><span class="caption-text">(.+?)<', index)
    assert captions == ["Learn", "How to", "Deploy", "Reference", "Explanation"]


def test_the_navigation_has_each_title_once_and_those_of_the_cards(site):
    index = (site / "docs" / "index.html").read_text()
    menu = index.partition('class="sidebar-tree"')[2].partition("</aside>")[0]
    titles = re.findall(r'<a class="reference internal" href="[^"]+">(.+?)</a>', menu)
    assert len(titles) == len({*titles}) > 30
    cards = re.findall(r"sd-card-title[^>]*>\s*(?:<[^>]+>\s*)*([^<]+)", index)
    assert {card.strip() for card in cards} <= {*titles}


def test_a_card_begins_with_a_capital(site):
    index = (site / "docs" / "index.html").read_text()
    texts = re.findall(r'<p class="sd-card-text">(.)', index)
    assert len(texts) > 30
    assert not [text for text in texts if text.islower()]


def test_a_function_has_space_on_both_sides(site):
    lessons = (site / "docs" / "learn" / "euler-to-rope.html").read_text()
    space = r'<mspace width="0.17em"/>'
    assert re.search(rf"</mi>\s*{space}<mi>sin</mi>\s*<mo>(&ApplyFunction;|.)</mo>{space}", lessons)


def test_the_site_has_an_icon_and_no_empty_copyright(site):
    index = (site / "docs" / "index.html").read_text()
    assert re.search(r'<link rel="(shortcut )?icon" href="[^"]+favicon.svg"', index)
    assert "Copyright" not in index
