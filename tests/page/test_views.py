"""Each view in both languages, light and dark, on a phone and on a desktop."""

import pytest

from tests.page.conftest import VIEWS, assert_no_overflow


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize(("language", "color_scheme"), [("en", "light"), ("zh", "dark")])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_clean(open_view, axe, name, language, color_scheme, width):
    page = open_view(name, language=language, color_scheme=color_scheme, width=width)
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == {"en": "en", "zh": "zh-Hans"}[language]
    assert_no_overflow(page)
    axe(page)
