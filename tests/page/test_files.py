"""Files of the page: texts in two languages, none in scripts; vendor.js and its licences."""

import hashlib
import json
import re

import pytest

from tests.conftest import ROOT

STATIC = ROOT / "service" / "page" / "static"
SCRIPTS = sorted(file for file in STATIC.rglob("*.js") if file.name != "vendor.js")
DOCUMENTS = sorted(STATIC.rglob("*.html"))
TEXTS = {file.stem: json.loads(file.read_text()) for file in (STATIC / "i18n").iterdir()}
LABELS = re.compile(r"\b(?:aria-label|title|placeholder|alt)=[\"']([^\"'$]*\w[^\"'$]*)[\"']")

NAMES = {"rope", "API", "JSON", "SVG", "PNG", "CSV", "curl", "safetensors", "Python", "cos", "sin"}
NAMES |= {"hf", "float"}
"""What is the same in all languages."""


FILES = (".js", ".html", ".css", ".json")

KEY = re.compile(r"([\"'`])([a-z][\w-]*\.(?:(?!\1)[^\n])*)\1")


def keys_of(text):
    """Yield the patterns of the keys that a file uses; a template's values match anything."""
    for _, key in KEY.findall(text):
        yield "".join(
            ".*" if part.startswith("${") else re.escape(part)
            for part in re.split(r"(\$\{(?:[^{}]|\{[^{}]*\})*\})", key)
            if part
        )


def test_both_languages_have_the_same_keys():
    assert TEXTS.keys() == {"en", "zh"}
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    for texts in TEXTS.values():
        assert [*texts] == sorted(texts), "keys are sorted"
        assert all(text.strip() for text in texts.values())


@pytest.mark.parametrize("key", sorted(TEXTS["en"]))
def test_both_languages_name_the_same_values(key):
    values = [sorted(set(re.findall(r"\{(\w+)\}", texts[key]))) for texts in TEXTS.values()]
    assert values[0] == values[1]


def test_every_text_is_used():
    files = [file.read_text() for file in (*SCRIPTS, *DOCUMENTS)]
    used = {pattern for file in files for pattern in keys_of(file)}
    whole = re.compile("|".join(sorted(used)))
    assert [key for key in TEXTS["en"] if not whole.fullmatch(key)] == []


@pytest.mark.parametrize("file", [*SCRIPTS, *DOCUMENTS], ids=lambda file: file.name)
def test_no_text_is_missing(file):
    script = file.read_text()
    first_words = {key.partition(".")[0] for key in TEXTS["en"]}
    named = {key for _, key in KEY.findall(script) if key.partition(".")[0] in first_words}
    literal = {key for key in named if "${" not in key and not key.endswith((*FILES, "."))}
    singular = {key.removesuffix(".one") for key in TEXTS["en"] if key.endswith(".one")}
    assert literal - TEXTS["en"].keys() - singular == set()
    for template in re.findall(r"\bt\(\s*(`[^`]+`)", script):
        for pattern in keys_of(template):
            assert any(re.fullmatch(pattern, key) for key in TEXTS["en"]), pattern


STRING = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|//[^\n]*|/\*.*?\*/", re.DOTALL)


def static_parts(script):
    """Return the html templates of a script, with a space for each value."""
    templates, stack, index = [], [], 0  # the stack has templates that are open, and braces
    while index < len(script):
        top, rest = (stack[-1] if stack else None), script[index:]
        step = 1
        if isinstance(top, list):
            if rest[0] == "\\":
                step = 2
            elif rest.startswith("${"):
                top.append(" ")
                stack.append("{")
                step = 2
            elif rest[0] == "`":
                stack.pop()
            else:
                top.append(rest[0])
        elif match := STRING.match(rest):
            step = match.end()
        elif rest[0] == "`":
            stack.append([])
            if script[:index].endswith("html"):
                templates.append(stack[-1])
        elif rest[0] == "{":
            stack.append("{")
        elif rest[0] == "}" and stack:
            stack.pop()
        index += step
    return ["".join(template) for template in templates]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_no_text_is_in_a_script(file):
    script = file.read_text()
    assert not re.search(r"[\u3400-\u9fff]", script), "Chinese text"
    for template in static_parts(script):
        shown = re.sub(r"<[^<>]*>", " ", template) + " ".join(LABELS.findall(template))
        assert set(re.findall(r"[^\W\d_]{2,}", shown)) - NAMES == set(), template


def test_the_check_of_scripts_can_fail():
    script = (
        """const a = html`<p class="x y">${t("a.b")}<b>Hello</b>${c ? html`<i>you` : `z`}</p>`;"""
    )
    shown = [re.sub(r"<[^<>]*>", " ", template).split() for template in static_parts(script)]
    assert shown == [["Hello"], ["you"]]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_run_no_text(file):
    """Markup of a client is shown as text, and the policy allows no eval."""
    forbidden = (
        r"innerHTML|outerHTML\s*=|dangerouslySetInnerHTML|insertAdjacentHTML|document\.write"
    )
    assert not re.search(rf"{forbidden}|\beval\(|new Function", file.read_text())


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_documents_follow_the_policy(file):
    text = file.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|<base\b", text)
    addresses = re.findall(r"\b(?:src|href)=\"([^\"]*)\"", re.sub(r"<a\b[^>]*>", "", text))
    assert [each for each in addresses if each.startswith(("/", "http"))] == []
    links = re.findall(r"<a\b[^>]*\bhref=\"(/[^\"]*)\"", text)
    assert links == [], "relative addresses only"


def test_vendor_is_what_its_sum_says():
    digest, name = (STATIC / "vendor.js.sha256").read_text().split()
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest


def test_vendor_names_its_packages_and_licences():
    """Versions are those of the lock, and each package has its licence."""
    lock = json.loads((ROOT / "tools" / "vendor" / "package-lock.json").read_text())
    versions = {
        path.removeprefix("node_modules/"): entry["version"]
        for path, entry in lock["packages"].items()
        if path.startswith("node_modules/")
    }
    banner = (STATIC / "vendor.js").read_text().partition("*/")[0]
    packages = re.findall(r"([@\w/-]+) (\d+\.\d+\.\d+)", banner)
    assert {"preact", "htm", "@preact/signals", "d3-scale", "d3-shape", "d3-format"} <= dict(
        packages
    ).keys()
    licences = (STATIC / "vendor-licences.txt").read_text()
    for name, version in packages:
        assert versions[name] == version
        assert re.search(
            rf"^{re.escape(name)} {re.escape(version)} \((MIT|ISC|Apache-2.0)\)$", licences, re.M
        )
    assert "resolved" not in json.dumps(lock), "no host of a registry"


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_every_import_is_used(file):
    script = re.sub(r"//[^\n]*", "", file.read_text())
    imports = re.compile(r"^import \{([^}]*)\} from .*$", re.MULTILINE)
    names = [
        each.split(" as ")[-1].strip()
        for part in imports.findall(script)
        for each in part.split(",")
    ]
    rest = imports.sub("", script)
    uses = r"(?<![\w$])(?<![\w)\]?]\.){}\b"  # no property of another value
    unused = [name for name in names if name and not re.search(uses.format(re.escape(name)), rest)]
    assert unused == []
