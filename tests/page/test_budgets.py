"""Sizes, requests and nodes of each view, and the time until its document is ready."""

from urllib.parse import urlsplit

import pytest

from service.page.files import read_files
from tests.page.conftest import VIEWS

MAX_REQUESTS = 12
MAX_PLAIN, MAX_GZIP = 400_000, 120_000
MAX_NODES = 1_500

FILES = read_files()


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_small(open_view, record_property, name):
    """The time is printed, not tested: it depends on what else runs."""
    page = open_view(name)
    page.wait_for_load_state("networkidle")
    requests = [each for each in open_view.requests if not each.startswith(("data:", "blob:"))]
    paths = [urlsplit(each).path for each in requests]
    files = [FILES[path.removeprefix("/ui/")] for path in paths if path.startswith("/ui/")]
    plain, compressed = (sum(map(len, sizes)) for sizes in zip(*map(sizes_of, files), strict=True))
    nodes = page.evaluate("document.querySelectorAll('*').length")
    ready_ms = page.evaluate(
        "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    )
    record_property(
        "budget",
        f"{len(requests)} requests, {plain / 1e3:.1f} kB, {compressed / 1e3:.1f} kB with gzip, "
        f"{nodes} nodes, ready in {ready_ms:.0f} ms",
    )
    assert len(requests) <= MAX_REQUESTS, paths
    assert plain <= MAX_PLAIN
    assert compressed <= MAX_GZIP
    assert nodes <= MAX_NODES


def sizes_of(file):
    return file.content, file.compressed
