"""Each view in both languages, from a phone to a wide screen; light in one, dark in the other."""

import pytest

from tests.page.conftest import VIEWS, assert_no_overflow


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_clean(open_view, axe, name, language):
    page = open_view(name, language=language, width=1440)
    page.wait_for_load_state("networkidle")
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang").partition("-")[0] == language
    assert_no_overflow(page)
    if language == "en":
        axe(page)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert_no_overflow(page)
    if language == "zh":
        axe(page)
    for width in (360, 1000, 1100, 1680):  # 360 is also 1440 at a zoom of 400 %
        page.set_viewport_size({"width": width, "height": 225})
        assert_no_overflow(page)
