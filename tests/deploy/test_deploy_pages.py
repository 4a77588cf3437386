"""The blocks of docs/deploy that need a service; manifests/test_pages.py runs the others."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from service.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.guide import Guide

PAGES = {
    name: (ROOT / "docs" / "deploy" / f"{name}.md").read_text() for name in ("kubernetes", "kserve")
}
CLUSTER_BLOCK = re.compile(r"^```sh\n.*?^```$", re.MULTILINE | re.DOTALL)


class Page(Guide):
    """A page with a process for each Python block, which KServe's client needs."""

    grpc_target = ""

    def _python(self, block):
        block = block.replace("127.0.0.1:8001", self.grpc_target)
        done = subprocess.run(
            [sys.executable, "-c", block], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.printed = done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_that_need_a_service(name, server, serve, tmp_path):
    if name == "kserve" and find_spec("kserve") is None:
        pytest.skip("kserve is not installed")
    page = Page(server.url, serve, tmp_path)
    page.grpc_target = server.grpc_target
    page.follow(CLUSTER_BLOCK.sub("", PAGES[name]))
    keys = (tmp_path / "keys.toml").read_text()
    assert keys.count("keys = [") == 2
    assert (tmp_path / "key").read_text().strip() in (tmp_path / "prometheus.txt").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_variables_of_the_pages_are_settings(name):
    names = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert {*re.findall(r"\bROPE_[A-Z_]+", PAGES[name])} - {"ROPE_PREDICTOR_PORT"} <= names
