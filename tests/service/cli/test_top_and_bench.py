"""`rope-service top` and `bench`, against a running service."""

import json

import httpx
import pytest

from service.cli.app import run
from service.cli.commands import top
from service.cli.recent_history import History
from tests.waiting import wait_until

COLUMNS = ["second", "statuses", "refusals", "latency", "request_s", "runs", "calls", "tokens"]
COLUMNS += ["wait_s", "copy_s", "compute_s", "busy_s", "depth"]
ROW = [999, {"200": 59, "503": 1}, [["overloaded", 503, 1]], [0, 0, 50, 0, 1, 10], 1.0]
ROW += [30, 60, 600, 0.1, 0.1, 0.3, 0.5, 6]
ANSWER = {
    "now": 1000.5,
    "started": 100.0,
    "until": 999,
    "oldest": 100,
    "phase": "ready",
    "drain": None,
    "queue": {"depth": 0},
    "memory_bytes": 2**20,
    "routes": ["/v1/rotate"],
    "limits": {"queue_calls": 6, "lanes": 1, "memory_bytes": 2**30},
    "about": {"version": "1", "torch": "2", "device": "cpu", "settings": {}},
    "sessions": None,
    "bounds": [0.01, 0.05],
    "columns": COLUMNS,
    "rows": [ROW],
}


@pytest.fixture
def history() -> History:
    history = History()
    history.add(ANSWER)
    return history


def test_a_pipe_gets_one_picture_without_colour(cli, server_url):
    code, out, err = cli("top", server_url)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    for name in ("Requests", "Latency", "Queue", "Device", "Calls a run", "rope-service "):
        assert sum(line.startswith(name) for line in out.splitlines()) == 1


def test_json_is_what_the_route_answers(cli, server_url):
    code, out, _ = cli("top", server_url, "--json")
    route = httpx.get(f"{server_url}/v1/recent").json()
    assert code == 0
    assert json.loads(out).keys() == route.keys()
    assert json.loads(out)["started"] == route["started"]


class Enough(Exception):
    """Ends the endless loop."""


def test_a_terminal_is_drawn_again_and_again(terminal, monkeypatch, server_url):
    monkeypatch.setattr("sys.stdout", terminal.file)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise Enough

    with pytest.raises(Enough):
        top.watch(server_url, sleep)
    assert slept == [top.INTERVAL_S] * 3
    wait_until(lambda: terminal.text.count("Calls a run") >= 3)
    assert "\x1b[1;36m" in terminal.text, "the curves have a colour"


def test_no_service_is_one_sentence(cli):
    code, out, err = cli("top", "http://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert "cannot reach the service" in err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Refusing requests: overloaded"),
        ({"queue": {"depth": 1}}, "Refusing requests: overloaded"),
        ({"phase": "warming up"}, "Warming up"),
        ({"phase": "device lost"}, "Device lost"),
        (
            {"phase": "draining", "drain": {"left_s": 7.2, "requests": 3}},
            "Draining: 3 calls left, 7 s to go",
        ),
    ],
)
def test_the_headline_is_the_state(history, changes, sentence):
    history.last = ANSWER | changes
    assert top.headline(history, None) == sentence


@pytest.mark.parametrize(
    ("depth", "sentence"),
    [
        (0, "Keeping up, the queue is empty"),
        (1, "1 call is waiting"),
        (6, "The queue is full: 6 calls wait, further ones are refused"),
    ],
)
@pytest.mark.parametrize("refusals", [[["overloaded", 503, 4]], [["shape", 422, 4]]])
def test_refusals_of_long_ago_and_of_clients_are_no_headline(depth, sentence, refusals):
    by_service = refusals[0][0] == "overloaded"
    second = 999 - top.REFUSING_S if by_service else 999
    history = History()
    history.add(ANSWER | {"rows": [[second, ROW[1], refusals, *ROW[3:]]]})
    history.last = ANSWER | {"queue": {"depth": depth}}
    assert top.headline(history, None) == sentence


def test_percentiles_are_bounds_of_buckets(history):
    (buckets,) = history.routes(history.seconds).values()
    assert [history.percentile(buckets, part) for part in (0.5, 0.83, 0.99)] == [0.01, 0.01, 0.05]
    assert history.percentile({2: 1}, 0.5) == float("inf")
    assert history.percentile({}, 0.5) is None
    assert top.summary(history).endswith("and 1 request was refused.")


def test_rows_come_once_and_a_restart_begins_again(history):
    history.add(ANSWER)
    assert len(history.seconds) == 1
    history.add(ANSWER | {"started": 1000.0, "rows": []})
    assert not history.seconds


def test_bench_compares_with_an_echo(cli, server_url):
    code, out, err = cli("bench", server_url, "--seconds", 0.6, "--clients", 2, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    for name in ("service", "echo"):
        row = report[name]
        assert row["requests_per_s"] > 0
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    rates = report["service"]["requests_per_s"], report["echo"]["requests_per_s"]
    assert report["ratio_to_echo"] == pytest.approx(rates[0] / rates[1])
    assert report["request_bytes"] > report["answer_bytes"] > 20_000


def test_bench_knows_its_work(cli):
    code, _, err = cli("bench", "http://127.0.0.1:9", "--work", "sort")
    assert code == 2
    assert "--work must be rotate or attention, got sort" in err


def test_help_names_both(capsys):
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert " top " in out
    assert " bench " in out
