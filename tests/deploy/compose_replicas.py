"""deploy/haproxy/compose.yaml in a real engine: `make replicas-test`.

Starts it, sends requests, looks at what Prometheus sees, and upgrades both replicas under load. It
needs a Docker engine with the image rope-service:dev, docker-compose, and root, and prints SKIPPED
without them. HAProxy and Prometheus run in one stand-in image of Debian's packages, so that no
registry is needed. All containers use the network of the host, with addresses of the loopback
interface. A DNS server at the address of Docker's own resolves the names of the replicas.
"""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from rope_client import Client
from tests.conftest import ROOT
from tests.deploy import engine
from tests.deploy.dns_server import dns_server
from tests.deploy.engine import DOCKER
from tests.deploy.report import print_line
from tests.deploy.rolling.load import Load
from tests.deploy.rolling.replicas import NAMES, Haproxy
from tests.deploy.rolling.test_routing import CONFIGURATION, owner_of, tensors
from tests.waiting import wait_until

COMPOSE = os.environ.get("DOCKER_COMPOSE", "docker-compose")
FOLDER = ROOT / "deploy" / "haproxy"
VARIABLES = {"ROPE_SESSION_KEY": "0123456789abcdef0123"}
STANDIN = "rope-standin:dev"
STANDIN_FILE = """
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends haproxy prometheus
"""
FRONT = "127.14.0.9"
ADDRESSES = {"rope-1": "127.14.0.1", "rope-2": "127.14.0.2"}
NEW_ADDRESS = "127.14.0.3"
"""Address of rope-1 after its upgrade, as a new container may have another one."""
READY = (
    "import http.client, os; c = http.client.HTTPConnection(os.environ['ROPE_HTTP_HOST'], 8002); "
    "c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"
)


def main() -> None:
    """Start, send requests, check Prometheus, upgrade under load, stop."""
    missing = [name for name in (DOCKER, COMPOSE) if shutil.which(name) is None]
    if (
        missing
        or os.geteuid() != 0
        or not engine.succeeds(DOCKER, "image", "inspect", engine.IMAGE)
    ):
        print_line(
            f"replicas test SKIPPED: it needs root, docker, docker-compose and {engine.IMAGE}"
        )
        return
    engine.run(DOCKER, "build", "--network", "host", "--tag", STANDIN, "-", stdin=STANDIN_FILE)
    engine.run(DOCKER, "tag", engine.IMAGE, "rope-service:next")
    with dns_server(("127.0.0.11", 53)) as names, _up() as (proxy, upgrade):
        names |= ADDRESSES
        _wait_for_both(proxy)
        print_line("up: HAProxy has both replicas")
        _check_sessions(proxy)
        _check_prometheus()
        load = asyncio.run(_upgrade_under_load(proxy, upgrade, names))
        print_line(f"both replicas upgraded, rope-1 at another address:\n{load}")
        print_line(f"HAProxy: {proxy.error_counts()}")
        if load.outcomes.keys() != {"rotate right"}:
            raise SystemExit("test FAILED: requests failed")
    print_line("replicas test passed")


def _wait_for_both(proxy: Haproxy) -> None:
    """Wait until checks have succeeded: before the first one, HAProxy takes a server for ready."""

    def are_ready() -> bool:
        rows = proxy.rows()
        states = [
            (rows[key]["status"], rows[key]["check_status"])
            for key in (("replicas", name) for name in NAMES)
            if key in rows
        ]
        return states == [("UP", "L7OK")] * len(NAMES)

    wait_until(are_ready, 120, interval_s=0.1)


def _check_sessions(proxy: Haproxy) -> None:
    q, k, v = tensors()
    owners = set()
    with Client(proxy.url) as client:
        for _ in range(4):
            with client.session(**CONFIGURATION) as session:
                session.step(0, q, k, v)
                session.step(0, q, k, v)
                assert session.inspect().length == (2,)
                owners.add(owner_of(session.state.id))
    assert owners == {*NAMES}, owners
    print_line("sessions of both replicas take steps")


def _check_prometheus() -> None:
    with httpx.Client(base_url=f"http://{FRONT}:9090/api/v1") as client:

        def health() -> dict[str, str]:
            targets = client.get("/targets").json()["data"]["activeTargets"]
            return {each["labels"]["instance"]: each["health"] for each in targets}

        def rules() -> dict[str, str]:
            groups = client.get("/rules").json()["data"]["groups"]
            return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

        wait_until(lambda: len(health()) == 3 and {*health().values()} == {"up"}, 60)
        assert {"RopeServiceDown", "RopeNoReplica"} <= rules().keys()
        wait_until(lambda: {*rules().values()} == {"ok"}, 60)
        query = {"query": 'up{job="rope-service"}'}
        found = client.get("/query", params=query).json()["data"]["result"]
        num_rules = len(rules())
    instances = sorted(each["metric"]["instance"] for each in found)
    assert instances == [f"{name}:8002" for name in NAMES], instances
    print_line(f"Prometheus: {instances} and HAProxy are up, {num_rules} alerts are evaluated")


async def _upgrade_under_load(proxy: Haproxy, upgrade: Path, names: dict[str, str]) -> Load:
    async with Load(proxy.url) as load:
        await load.answers(100)
        for name in NAMES:
            address = names.pop(name)
            await asyncio.to_thread(_compose, upgrade, "up", "-d", "--no-deps", name)
            names[name] = NEW_ADDRESS if name == "rope-1" else address
            await asyncio.to_thread(_wait_for_both, proxy)
            await load.answers(100)
    return load


@contextmanager
def _up() -> Iterator[tuple[Haproxy, Path]]:
    """Start the containers; yield HAProxy, and the file of their next version."""
    text = engine.run(COMPOSE, "-f", str(FOLDER / "compose.yaml"), "config", **VARIABLES)
    with tempfile.TemporaryDirectory() as folder:
        first, upgrade = Path(folder, "first.yaml"), Path(folder, "next.yaml")
        first.write_text(json.dumps(_on_loopback(yaml.safe_load(text), "dev", ADDRESSES)))
        moved = {**ADDRESSES, "rope-1": NEW_ADDRESS}
        upgrade.write_text(json.dumps(_on_loopback(yaml.safe_load(text), "next", moved)))
        try:
            _compose(first, "up", "-d")
            proxy = Haproxy(None, (8000, 8001, 8404), FRONT)
            yield proxy, upgrade
        finally:
            _compose(first, "down", "--volumes", "--timeout", "5")


def _on_loopback(config: dict[str, Any], tag: str, addresses: dict[str, str]) -> dict[str, Any]:
    """Return the configuration with the host's network and the stand-in image."""
    services = config["services"]
    for service in services.values():
        service.pop("ports", None)
        service.pop("build", None)
        service["network_mode"] = "host"
    for name, address in addresses.items():
        services[name]["image"] = f"rope-service:{tag}"
        services[name]["environment"] |= {"ROPE_HTTP_HOST": address, "ROPE_ALLOWED_HOSTS": FRONT}
        services[name]["healthcheck"]["test"] = ["CMD", "python", "-c", READY]
    file = "/usr/local/etc/haproxy/haproxy.cfg"
    services["haproxy"] |= {
        "image": STANDIN,
        "command": ["haproxy", "-W", "-db", "-f", file],
        "stop_signal": "SIGUSR1",
        "user": "65534:65534",
        "environment": {
            "BIND_HTTP": f"{FRONT}:8000",
            "BIND_GRPC": f"{FRONT}:8001",
            "BIND_METRICS": f"{FRONT}:8404",
        },
    }
    services["prometheus"] |= {
        "image": STANDIN,
        "entrypoint": ["prometheus", f"--web.listen-address={FRONT}:9090"],
        "extra_hosts": [f"{name}:{address}" for name, address in addresses.items()]
        + [f"haproxy:{FRONT}"],
    }
    return config


def _compose(file: Path, *arguments: str) -> str:
    return engine.run(COMPOSE, "-p", "rope-replicas", "-f", str(file), *arguments, **VARIABLES)


if __name__ == "__main__":
    main()
