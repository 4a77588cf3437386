"""`rope-service top`: what a service does now, and did in the last 15 minutes, in a terminal."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from service.cli.errors import InputError
from service.cli.http_client import HttpClient
from service.cli.output import console, count_text, new_table, number_text
from service.cli.recent_history import (
    KEPT_S,
    History,
    Second,
    all_buckets,
    count_refusals,
    count_statuses,
    total,
)
from service.errors import printable

PATH = "/v1/recent"

INTERVAL_S = 2.0

LATELY_S = 60
"""Seconds of the figures beside the curves."""

REFUSING_S = 10
"""A refusal within these last seconds is the headline, as in the view Live."""

TIMEOUT_S = 5.0

MIN_WIDTH, MAX_WIDTH, OTHER_COLUMNS = 10, 90, 58

MIB = 2**20

_BLOCKS = " ▁▂▃▄▅▆▇█"

_REMEDIES: Mapping[str, str] = {
    "overloaded": "raise ROPE_MAX_QUEUE_CALLS or ROPE_MEMORY_BUDGET_BYTES, or add a replica",
    "expired": "add a replica, or send shorter calls",
    "timed_out": "add a replica, or raise the timeout of the client",
    "quota_exceeded": "raise the limit of the tenant in the keys file",
    "device_memory": "lower ROPE_MAX_BATCH_BYTES, or add memory",
    "device_lost": "replace the device; the service ends",
    "device_stuck": "look at the driver; the service ends",
    "kernel_not_built": "set ROPE_WARM_UP_SHAPES to the shapes of your models",
    "kv_memory": "raise ROPE_KV_BYTES, or add a replica",
    "quota": "raise max_sessions or max_kv_bytes of the tenant",
    "internal": "a bug: report the log line",
    "unauthenticated": "the client needs a valid API key",
    "shutting_down": "none: the client sends it to another replica",
}

_SERVICE_CODES = _REMEDIES.keys() - {"unauthenticated"}
"""Codes for which the service, not the client, needs a change."""


def read(url: str) -> bytes:
    """Return the answer of the route as it is."""
    with HttpClient(url, TIMEOUT_S) as client:
        return client.get(PATH)


def print_once(answer: bytes) -> None:
    """Print what a service does and did."""
    history = History()
    history.add(json.loads(answer))
    out = console()
    out.print(render(history, min(out.width, 100), None))


def watch(url: str, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show what a service does, until Ctrl-C."""
    history, lost_since = History(), None
    out = console()
    with HttpClient(url, TIMEOUT_S) as client, suppress(KeyboardInterrupt):
        history.add(json.loads(client.get(PATH)))
        with Live(console=out, screen=False, auto_refresh=False) as live:
            while True:  # Ctrl-C ends it
                live.update(render(history, out.width, lost_since), refresh=True)
                sleep(INTERVAL_S)
                try:
                    history.add(json.loads(client.get(f"{PATH}?after={history.after}")))
                    lost_since = None
                except InputError:
                    lost_since = lost_since or time.monotonic()


def render(history: History, width: int, lost_since: float | None) -> RenderableType:
    """Return the picture: a headline, five rows, routes, refusals, sessions, what runs."""
    every = [*history.seconds]
    parts: list[RenderableType] = [Text(headline(history, lost_since), style="bold")]
    parts += [Text(summary(history)), Text(""), _rows(history, width)]
    routes = history.routes(every)
    if routes:
        parts += [Text(""), _route_table(history, routes)]
    if refusals := count_refusals(every):
        parts += [Text(""), _refusal_table(refusals)]
    parts += [Text(""), *_footer(history)]
    return Group(*parts)


def headline(history: History, lost_since: float | None) -> str:
    """Return the state in one sentence."""
    answer = history.last
    if lost_since is not None:
        return f"No answer for {math.ceil(time.monotonic() - lost_since)} s: these are old figures"
    phase, depth, drain = answer["phase"], answer["queue"]["depth"], answer["drain"]
    if phase == "draining" and drain is not None:
        return f"Draining: {drain['requests']} calls left, {drain['left_s']:.0f} s to go"
    if phase != "ready":
        return f"{phase.capitalize()}"
    lately = count_refusals(history.last_seconds(REFUSING_S))
    refusals = {code: n for (code, _), n in lately.items() if code in _SERVICE_CODES}
    if refusals:
        return f"Refusing requests: {printable(max(refusals, key=refusals.__getitem__))}"
    if depth >= answer["limits"]["queue_calls"]:
        return f"The queue is full: {count_text(depth)} calls wait, further ones are refused"
    if depth:
        return f"{count_text(depth)} {'call is' if depth == 1 else 'calls are'} waiting"
    return "Keeping up, the queue is empty"


def summary(history: History) -> str:
    """Return the last minute, and the last 15, in two sentences."""
    lately = history.last_seconds(LATELY_S)
    number = count_statuses(lately)
    buckets = all_buckets(history.routes(lately))
    seconds = _known_s(history, LATELY_S)
    text = "No requests in the last minute."
    if number:
        p99 = duration_text(history.percentile(buckets, 0.99))
        text = f"{number_text(round(number / seconds, 1))} requests a second, 99 % of them {p99}."
    every = [*history.seconds]
    known_s = _known_s(history, KEPT_S)
    since = f"In the last {known_s // 60} min" if known_s >= 120 else f"In the last {known_s} s"
    refused = count_refusals(every).total()
    busy = _busy(history, every, known_s)
    text += f" {since} the device was busy {busy:.0%} of the time, and "
    return (
        text
        + f"{count_text(refused)} {'request was' if refused == 1 else 'requests were'} refused."
    )


def duration_text(seconds: float | None) -> str:
    """Write the bound of a bucket."""
    if seconds is None:
        return "—"
    if math.isinf(seconds):
        return "> 100 s"
    if seconds >= 1:
        return f"≤ {seconds:g} s"
    return f"≤ {seconds * 1e3:g} ms" if seconds >= 1e-3 else f"≤ {seconds * 1e6:g} µs"


def curve(values: Sequence[float | None], highest: float) -> str:
    """Write values as blocks of eight heights; a value above 0 has at least the first."""
    text = ""
    for value in values:
        if value is None:
            text += "·"
            continue
        height = math.ceil(min(value / highest, 1.0) * (len(_BLOCKS) - 1)) if highest else 0
        text += _BLOCKS[height]
    return text


def _rows(history: History, width: int) -> Table:
    limits = history.last["limits"]
    lately = history.last_seconds(LATELY_S)
    width = max(MIN_WIDTH, min(MAX_WIDTH, width - OTHER_COLUMNS))
    parts = history.by_column(KEPT_S, width)
    known = _known_columns(history, width)

    def line(value: Callable[[list[Second]], float | None]) -> list[float | None]:
        return [
            value(part) if is_known else None for part, is_known in zip(parts, known, strict=True)
        ]

    def percentile(seconds: list[Second], part: float) -> float | None:
        return history.percentile(all_buckets(history.routes(seconds)), part)

    def log_height(seconds: list[Second]) -> float:
        p99 = percentile(seconds, 0.99)
        return 0.0 if p99 is None else math.log10(min(p99, 100.0)) + 5.2

    def per_run(seconds: list[Second]) -> float:
        runs = total(seconds, "runs")
        return total(seconds, "calls") / runs if runs else 0.0

    seconds = _known_s(history, LATELY_S)
    requests = line(lambda part: count_statuses(part))
    refused = count_refusals(lately).total()
    answered = count_statuses(lately) - refused
    depths = line(lambda part: max((each["depth"] for each in part), default=0))
    part_s = KEPT_S / width
    busy = line(lambda part: _busy(history, part, part_s))
    deepest = max((each["depth"] for each in lately), default=0)
    memory = f"{count_text(round(history.last['memory_bytes'] / MIB))} of "
    memory += f"{count_text(round(limits['memory_bytes'] / MIB))} MiB"
    runs = line(per_run)
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    rows: list[tuple[str, str, str]] = [
        (
            "Requests",
            curve(requests, _highest(requests)),
            f"{count_text(answered)} answered, {count_text(refused)} refused in a minute",
        ),
        (
            "Latency",
            curve(line(log_height), 7.2),
            f"p50 {duration_text(percentile(lately, 0.5))}   "
            f"p99 {duration_text(percentile(lately, 0.99))}",
        ),
        (
            "Queue",
            curve(depths, _highest(depths)),
            f"{count_text(deepest)} at most, full at {count_text(limits['queue_calls'])}",
        ),
        ("Device", curve(busy, 1.0), f"busy {_busy(history, lately, seconds):.0%}   {memory}"),
        (
            "Calls a run",
            curve(runs, max(_highest(runs), 1.0)),
            f"{number_text(round(per_run(lately), 1))}   "
            f"{count_text(round(total(lately, 'tokens') / seconds))} tokens a second",
        ),
    ]
    for name, blocks, figures in rows:
        table.add_row(Text(name, style="label"), Text(blocks, style="number"), Text(figures))
    gap = " " * max(0, width - len("-15 minnow"))
    table.add_row(Text(""), Text(f"-15 min{gap}now", style="label"), Text(""))
    return table


def _route_table(history: History, routes: Mapping[str, Any]) -> Table:
    table = new_table("by route", "a second", "p50", "p95", "p99", left=("by route",))
    seconds = _known_s(history, KEPT_S)
    for route, buckets in [*routes.items()][:10]:
        marks = [duration_text(history.percentile(buckets, part)) for part in (0.5, 0.95, 0.99)]
        rate = number_text(float(f"{buckets.total() / seconds:.3g}"))
        table.add_row(printable(route), Text(rate, style="number"), *marks)
    return table


def _refusal_table(refusals: Any) -> Table:
    table = new_table("refused", "times", "what to do", left=("refused", "what to do"))
    for (code, status), count in refusals.most_common(8):
        is_client = isinstance(status, int) and status < 500 and status != 429
        default = "the client's request is wrong: docs/errors.md" if is_client else "docs/errors.md"
        remedy = _REMEDIES.get(code, default)
        name = f"{printable(status)} {printable(code)}"
        table.add_row(name, Text(count_text(count), style="bad"), remedy)
    return table


def _footer(history: History) -> Sequence[Text]:
    answer = history.last
    lines = []
    if sessions := answer["sessions"]:
        pages = sessions["pages"]
        room = pages["reserved"] + pages["free"]
        share = pages["reserved"] / room if room else 0.0
        text = f"Sessions {count_text(sessions['live'])}   pages {share:.0%} reserved   "
        lines.append(Text(text + f"oldest idle {span_text(sessions['oldest_idle_s'])}"))
    about = answer["about"]
    text = f"rope-service {about['version']}, torch {about['torch']}, {about['device']}, "
    text += f"up {span_text(answer['now'] - answer['started'])}"
    text += f", at {datetime.fromtimestamp(answer['now']).astimezone():%H:%M:%S}"
    lines.append(Text(printable(text, 256), style="label"))
    if settings := about["settings"]:
        text = "  ".join(f"{name}={value}" for name, value in settings.items())
        lines.append(Text(printable(text, 512), style="label"))
    return lines


def span_text(seconds: float) -> str:
    """Write a long time."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _known_s(history: History, number: int) -> int:
    """Return how many of the last seconds the service knows."""
    known: int = history.last["until"] - history.last["oldest"] + 1
    return max(1, min(number, known))


def _known_columns(history: History, width: int) -> list[bool]:
    answer = history.last
    unknown_s = KEPT_S - max(0, min(KEPT_S, answer["until"] - answer["oldest"] + 1))
    return [(column + 1) * KEPT_S / width > unknown_s for column in range(width)]


def _busy(history: History, seconds: Sequence[Second], number: float) -> float:
    return total(seconds, "busy_s") / number / int(history.last["limits"]["lanes"])


def _highest(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)
