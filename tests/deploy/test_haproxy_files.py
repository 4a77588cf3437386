"""deploy/haproxy: times fit the settings of the service, and names in its files are the same."""

import re
from typing import Any

import pytest
import yaml

from service.server.websocket_streams import PING_S
from service.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.deploy.promtool import alerts_that_fire, promtool

FOLDER = ROOT / "deploy" / "haproxy"
CONFIG = (FOLDER / "haproxy.cfg").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
UNITS = {"ms": 0.001, "s": 1.0}
POOL_PURGE_DELAY_S = 5.0
"""HAProxy's default: how long an idle connection to a replica stays open."""


def default(name: str) -> float:
    return float(Settings.model_fields[name].default)


def seconds(name: str) -> float:
    """Return a time of haproxy.cfg, by the words before it."""
    [found] = {*re.findall(rf"\b{name}\s+(\d+)(ms|s)\b", CONFIG)}
    return float(found[0]) * UNITS[found[1]]


def replicas() -> dict[str, Any]:
    return {name: one for name, one in COMPOSE["services"].items() if name.startswith("rope-")}


@pytest.mark.parametrize(
    ("of_haproxy", "of_the_service"),
    [
        ("timeout http-request", default("header_timeout_s")),
        ("timeout client", default("body_grace_s") + default("write_stall_s")),
        ("timeout server", default("max_timeout_s")),
        ("timeout tunnel", 2 * PING_S),
        ("hard-stop-after", default("max_timeout_s")),
    ],
)
def test_the_service_ends_what_is_slow_before_haproxy_does(of_haproxy, of_the_service):
    assert seconds(of_haproxy) > of_the_service


def test_haproxy_closes_idle_connections_before_the_service_does():
    assert default("keep_alive_s") / 2 > POOL_PURGE_DELAY_S
    assert "pool-purge-delay" not in CONFIG


def test_a_drain_is_seen_while_the_replica_still_serves():
    [fall] = re.findall(r"\bfall (\d+)", CONFIG)
    seen_s = (
        seconds("inter") + (int(fall) - 1) * seconds("fastinter") + int(fall) * seconds("check")
    )
    assert seen_s < default("drain_delay_s"), "the two checks may time out"


def test_haproxy_opens_no_more_connections_than_one_replica_accepts():
    [limit] = re.findall(r"\bmaxconn (\d+)", CONFIG)
    assert int(limit) < 4096
    assert "at most\n4096" in Settings.model_fields["max_connections"].description


def test_servers_are_the_replicas_by_the_names_of_their_sessions():
    servers = re.findall(r"^    server (\S+) ", CONFIG, re.MULTILINE)
    owners = [one["environment"]["ROPE_SESSION_OWNER"] for one in replicas().values()]
    assert servers == [*replicas(), *replicas()], "over HTTP and gRPC"
    assert owners == [*replicas()]


def test_only_calls_without_effects_are_sent_twice():
    words = [line.split()[3:] for line in CONFIG.splitlines() if "acl repeatable path " in line]
    paths = {path for line in words for path in line}
    assert {"/v1/rotate", "/v1/attention"} < paths
    assert not [path for path in paths if re.search("session|step|stream|diagnose", path)]
    [infer] = re.findall(r"acl repeatable path_reg (\S+)", CONFIG)
    assert re.fullmatch(infer, "/v2/models/rope_attention/infer")
    assert not re.search(infer, "/v2/models/rope_session/infer")
    assert CONFIG.count("disable-l7-retry unless repeatable") == 1


def test_compose_waits_longer_than_a_drain_and_restricts_each_container():
    for one in replicas().values():
        drain_s = default("drain_delay_s") + default("drain_s")
        assert int(one["stop_grace_period"].removesuffix("s")) > drain_s
        assert "ports" not in one, "only HAProxy is reached from outside"
        assert one["read_only"] is True
    for one in COMPOSE["services"].values():
        assert one["cap_drop"] == ["ALL"]
        assert one["mem_limit"]
        assert not {"privileged", "cap_add", "network_mode"} & one.keys()
        for port in one.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${BIND:-127.0.0.1}:"))


def test_settings_of_the_replicas_exist():
    names = {PREFIX + field.upper() for field in Settings.model_fields}
    for one in replicas().values():
        assert one["environment"].keys() <= names
        assert one["environment"]["ROPE_SESSION_KEY"].startswith("${ROPE_SESSION_KEY:?")


def test_prometheus_reads_what_compose_has():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"] for job in config["scrape_configs"]}
    targets = [target for [each] in jobs.values() for target in each["targets"]]
    assert targets == [*(f"{name}:8002" for name in replicas()), "haproxy:8404"]
    assert jobs.keys() == {"rope-service", "haproxy"}, "rules.yaml names the job"
    assert str(replicas()["rope-1"]["environment"]["ROPE_STATUS_PORT"]) == "8002"
    mounted = {volume.split(":")[1] for volume in COMPOSE["services"]["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} < mounted


def test_each_alert_has_a_test():
    [group] = yaml.safe_load((FOLDER / "haproxy-rules.yaml").read_text())["groups"]
    tested = alerts_that_fire(yaml.safe_load((FOLDER / "tests" / "rules.yaml").read_text()))
    assert tested == {rule["alert"] for rule in group["rules"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "haproxy-rules.yaml"),
        ("test", "rules", "tests/rules.yaml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
)
def test_promtool_accepts_the_files(arguments):
    promtool(*arguments, cwd=FOLDER)
