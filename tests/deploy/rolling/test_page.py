"""The commands of docs/deploy/replicas.md that show the state, with two replicas and HAProxy."""

import subprocess

from tests.conftest import ROOT
from tests.deploy.rolling.replicas import Haproxy
from tests.guide import blocks

PAGE = (ROOT / "docs" / "deploy" / "replicas.md").read_text()
[LOOK] = [block for kind, block in blocks(PAGE) if kind == "sh" and "8404" in block]


def test_the_commands_show_that_it_works(proxy: Haproxy) -> None:
    block = LOOK.replace("http://127.0.0.1:8000", proxy.url)
    block = block.replace("http://127.0.0.1:8404", proxy.stats_url)
    *commands, prometheus = block.splitlines()
    assert "127.0.0.1:9090" in prometheus, "Prometheus is not here"
    ready, rotated, states = (
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, check=True
        ).stdout
        for command in commands
    )
    assert ready == '{"status":"ready"}'
    assert rotated.startswith('{"q":{"shape":[1,1,4],')
    shown = [line for line in states.splitlines() if line.startswith("replicas,rope-")]
    columns = [line.split(",") for line in shown]
    # "UP 1/2" before the first check of a server
    assert [state.split()[0] for _, _, state, _ in columns] == ["UP", "UP"]
    assert all(f"`replicas,{name},UP,0`" in PAGE for _, name, _, _ in columns)
    assert all(failed.isdecimal() for *_, failed in columns)
