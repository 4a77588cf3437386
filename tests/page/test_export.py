"""Saved figures: as on the screen, in light colours, with title and source; tables as CSV."""

import xml.etree.ElementTree as ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def saved(page, form):
    """Save the first figure; return the name and the bytes of the file."""
    figure = page.locator("section.fig").first
    with page.expect_download() as waiting:
        figure.get_by_role("button", name=form, exact=True).click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


def test_a_figure_is_saved_light_with_its_title_and_source(open_view):
    page = open_view("config", color_scheme="dark", fragment={"preset": "llama-3.1-8b", "pair": 40})
    page.wait_for_selector("section.fig svg path")
    title = page.locator("section.fig h2").first.inner_text()
    name, content = saved(page, "SVG")
    assert name.endswith(".svg")
    root = ElementTree.fromstring(content)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert root.find(f"{SVG}title").text == texts[0] == title
    assert any("rope-service" in (text or "") and "pair=40" in text for text in texts)
    assert {"allowed", "trained"} <= {*texts}
    assert root.find(f"{SVG}rect").get("fill") == "#fcfcfa"
    assert b"var(" not in content
    assert b"rgb(108, 182, 245)" not in content, "the colour of a in dark"
    assert b"rgb(0, 96, 168)" in content
    name, content = saved(page, "PNG")
    assert name.endswith(".png")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert width == int(2 * float(root.get("width")))
    assert height == int(2 * float(root.get("height")))
    assert page.locator(".sheet").count() == 0


def test_a_table_is_saved_as_csv(open_view):
    page = open_view("try")
    text = page.evaluate(
        """async () => {
            const { csv } = await import("./export.js");
            const rows = [["pair", "a, b"], [0, 0.5], [-1, 'say "x"'], [null, "two\\nlines"],
                          ["=1+1", "-0.5"], ["@x", 10n ** 20n]];
            return await csv(rows).text();
        }"""
    )
    assert text.removeprefix("\ufeff").split("\r\n") == [
        'pair,"a, b"',
        "0,0.5",
        '-1,"say ""x"""',
        ',"two\nlines"',
        "'=1+1,-0.5",
        "'@x,100000000000000000000",
        "",
    ]
