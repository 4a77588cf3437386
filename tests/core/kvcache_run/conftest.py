"""Every test runs with the compiled attention, and without it."""

import pytest

from rope_core.kvcache.compute import compiled_attend


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def extension(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(compiled_attend, "extension", lambda: None)
    elif compiled_attend.extension() is None:
        pytest.skip("the extension is missing")
