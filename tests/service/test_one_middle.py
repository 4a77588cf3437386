"""Every refusal is the same over every protocol: the error, the accounting, the statistics.

`REFUSALS` has the answers of `/v1`. The answers of the other protocols follow from them: `/v2` uses
400 for every wrong request, and `CODES` maps the statuses to those of gRPC. `DIFFERENCES` has the
exceptions, each with its reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.service.fake_driver import FakeDriver
from tests.service.outside import whole_service
from tests.service.protocols import (
    FORMS,
    Call,
    Form,
    Outcome,
    model_of,
    read,
    read_metrics,
)
from tests.service.refusals import (
    FAILURES,
    MODELS,
    ONE_TOKEN,
    POISON,
    Act,
    Stage,
    ask,
    be_shut_down,
    break_down,
    come_after,
    come_too_late,
    fail_large_calls,
    find_the_memory_full,
    find_the_queue_full,
    get_stuck,
    grown,
    large_call_fault,
    leave_the_device,
    leave_the_queue,
    poison_a_run,
    queue_too_long,
    run_out_of_memory,
    simply,
    wait_too_long_by_default,
    wait_too_long_for_the_client,
)

CODES = {
    200: "OK",
    400: "INVALID_ARGUMENT",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
LIMITS = {"max_body_bytes": 2**20, "max_json_bytes": 2**18}
BINARY, TEXT = ("v1 x-safetensors", "v2 binary", "grpc", "grpc stream"), ("v1 json", "v2 json")
FAILURE_FIELDS = {"code", "detail", "route", "bytes", "shapes", "backend"}
LOG_FIELDS = {"time", "level", "message", "request_id", "method", "path", "status", "ms"}


@dataclass(frozen=True)
class Refusal:
    """A way for a call to fail."""

    name: str
    status: int | None
    """Of `/v1`; None where the client has left."""
    code: str | None
    reason: str
    """In `nv_inference_request_failure`."""
    act: Act
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_device: bool = False
    """Whether it takes a device with memory of its own."""
    forms: tuple[str, ...] = (*TEXT, *BINARY)
    call: Call = ONE_TOKEN


@dataclass(frozen=True)
class Expected:
    """What is seen of a refusal over one protocol."""

    status: int | str | None
    """What the client gets."""
    code: str | None
    label: str
    """Status in the log and in `rope_requests_total`."""
    reasons: Mapping[str, int]
    """Failures that the model has counted, by reason."""


@dataclass(frozen=True)
class Difference:
    """What a protocol does differently on purpose, and why."""

    why: str
    ways: tuple[Mapping[str, Any], ...]
    """What it changes; more than one where it is a matter of luck."""


LOSE = FakeDriver.lose
TOO_LARGE, TOO_LARGE_AS_TEXT = Call(64, table_dim=8192), Call(10, table_dim=8192)
BAD, BROKEN = Call(theta=0.0), Call(broken=True)
BUDGET = {"memory_budget_bytes": 2**18}

REFUSALS = (
    Refusal("answer too large", 413, "too_large", "OTHER", simply(TOO_LARGE), call=TOO_LARGE),
    Refusal(
        "answer too large as text",
        413,
        "too_large",
        "OTHER",
        simply(TOO_LARGE_AS_TEXT),
        call=TOO_LARGE_AS_TEXT,
        forms=TEXT,
    ),
    Refusal(
        "deadline of the service",
        504,
        "timed_out",
        "OTHER",
        wait_too_long_by_default,
        {"default_timeout_s": 0.05},
    ),
    Refusal("deadline of the client", 504, "timed_out", "OTHER", wait_too_long_for_the_client),
    Refusal(
        "time in the queue",
        503,
        "expired",
        "REJECTED",
        queue_too_long,
        forms=("v2 json", "v2 binary", "grpc", "grpc stream"),
    ),
    Refusal(
        "queue full", 503, "overloaded", "REJECTED", find_the_queue_full, {"max_queue_calls": 1}
    ),
    Refusal(
        "memory full for the request",
        503,
        "overloaded",
        "REJECTED",
        find_the_memory_full(Call(tokens=200)),
        BUDGET,
    ),
    Refusal(
        "memory full for the answer",
        503,
        "overloaded",
        "REJECTED",
        find_the_memory_full(Call(tokens=100)),
        BUDGET,
        forms=BINARY,
    ),
    Refusal("left the queue", None, None, "CANCELED", leave_the_queue),
    Refusal("left the device", None, None, "CANCELED", leave_the_device, on_device=True),
    Refusal("shut down", 503, "shutting_down", "OTHER", be_shut_down),
    Refusal("came too late", 503, "shutting_down", "OTHER", come_too_late),
    Refusal("device lost", 503, "device_lost", "BACKEND", fail_large_calls(LOSE), on_device=True),
    Refusal("device lost before", 503, "device_lost", "BACKEND", come_after(LOSE), on_device=True),
    Refusal(
        "device stuck",
        503,
        "device_stuck",
        "BACKEND",
        get_stuck,
        {"device_stuck_s": 0.05},
        on_device=True,
    ),
    Refusal(
        "device full",
        503,
        "device_memory",
        "BACKEND",
        fail_large_calls(run_out_of_memory),
        on_device=True,
    ),
    Refusal(
        "poisoned run",
        500,
        "internal",
        "OTHER",
        poison_a_run(break_down),
        on_device=True,
    ),
    Refusal(
        "poisoned run, device full",
        503,
        "device_memory",
        "BACKEND",
        poison_a_run(run_out_of_memory),
        on_device=True,
    ),
    Refusal("bad parameter", 422, "config", "OTHER", simply(BAD), call=BAD),
    Refusal("bad message", 400, "bad_message", "OTHER", simply(BROKEN), call=BROKEN),
)

_NOT_COUNTED = "the model of a gRPC request is looked up after its message is read and charged for"
_CANCELLED = "a stream that the client leaves ends with a status, not with a message"
_STREAM_IS_LEFT = {"status": "CANCELLED", "label": "CANCELLED"}

DIFFERENCES: Mapping[tuple[str, str], Difference] = {
    ("deadline of the client", "grpc stream"): Difference(
        "gRPC cancels the stream at its deadline, at the same moment as the batcher's own timer. "
        "Which of the two the client sees, and which of the two the log shows, is a matter of "
        "luck: the timer's message may come before the stream's end, or the log say OK of a stream "
        "whose end the client did not wait for",
        tuple(
            {"status": status, "label": label}
            for status in ("DEADLINE_EXCEEDED", "error message")
            for label in ("DEADLINE_EXCEEDED", "OK")
        ),
    ),
    ("memory full for the request", "grpc"): Difference(_NOT_COUNTED, ({"reasons": {}},)),
    ("memory full for the request", "grpc stream"): Difference(_NOT_COUNTED, ({"reasons": {}},)),
    ("bad message", "grpc"): Difference(_NOT_COUNTED, ({"reasons": {}},)),
    ("bad message", "grpc stream"): Difference(_NOT_COUNTED, ({"reasons": {}},)),
    ("left the queue", "grpc stream"): Difference(_CANCELLED, (_STREAM_IS_LEFT,)),
    ("left the device", "grpc stream"): Difference(_CANCELLED, (_STREAM_IS_LEFT,)),
}
"""By name of the refusal and protocol; docs/decisions/0010-one-middle.md says why. Beside these:

- `/v1` counts nothing in the statistics of models: they are `/v2`'s, also where the same endpoint
  answers both;
- the text of an answer is limited by `max_json_bytes`, its bytes by `max_body_bytes` alone, so what
  `/v1` and `/v2` refuse as JSON is answered in bytes, and always over gRPC, see
  `test_an_answer_that_is_too_large_as_text_comes_as_bytes`;
- a stream has one line of log and one count of `rope_requests`, whatever becomes of its requests,
  and these say OK: a failure is a message with a text, without a code, and the stream goes on.
"""


def expected_of(refusal: Refusal, form: Form) -> list[Expected]:
    """Return what is to be seen; several where that is a matter of luck."""
    status = refusal.status
    counted = {refusal.reason: 1}
    if form.protocol == "v1":
        expected = Expected(status, refusal.code, str(status or 499), {})
    elif form.protocol == "v2":
        status = 400 if status == 422 else status
        expected = Expected(status, None, str(status or 499), counted)
    else:
        name = "CANCELLED" if status is None else CODES[400 if status == 422 else status]
        expected = Expected(name, None, name, counted)
    if form.protocol == "grpc stream":
        expected = replace(expected, status="error message", label="OK")
    difference = DIFFERENCES.get((refusal.name, form.protocol))
    if difference is None:
        return [expected]
    return [replace(expected, **way) for way in difference.ways]


LEVELS = ("rope_admitted_bytes", "rope_queue_depth", "rope_queued_bytes")
"""Each is 0 again after the last answer."""

CASES = [
    pytest.param(refusal, form, id=f"{refusal.name}-{form}")
    for refusal in REFUSALS
    for form in FORMS
    if form.name in refusal.forms
]


@pytest.mark.parametrize(("refusal", "form"), CASES)
async def test_a_refusal(refusal: Refusal, form: Form, capfd: pytest.CaptureFixture[str]):
    driver = FakeDriver() if refusal.on_device else None
    model, route = model_of(refusal.call), form.route(refusal.call)
    ways = expected_of(refusal, form)
    async with whole_service(driver, **{**LIMITS, **refusal.settings}) as service:
        stage = Stage(service, form, driver)
        before = await stage.until(lambda metrics: metrics["rope_ready"] == 1)
        outcome = await refusal.act(stage)
        neighbours = await stage.end()
        counted, num_failed = "rope_requests_total", sum(ways[0].reasons.values())
        after = await stage.until(
            lambda metrics: (
                grown(before, metrics, counted).total() == 1 + len(neighbours)
                and grown(before, metrics, FAILURES).total() >= num_failed
                and not any(metrics[level] for level in LEVELS)
            )
        )
        stats = json.loads(await read(service, f"/v2/models/{model}/stats"))["model_stats"][0]
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line[:1] == "{"]
    (line,) = [line for line in lines if line.get("request_id") == "call"]

    requests = grown(before, after, counted)
    for other in neighbours:
        requests[f'{counted}{{route="/v1/rotate",status="{other.status}"}}'] -= 1
    ((key, count),) = (+requests).items()
    labels = {status: f'{counted}{{route="{route}",status="{status}"}}' for status in statuses()}
    (label,) = [status for status, labelled in labels.items() if labelled == key]
    reasons = grown(before, after, FAILURES)
    seen = Expected(
        outcome.status,
        outcome.code,
        label,
        {item: reasons[key] for item in REASONS if (key := failures(model, item)) in reasons},
    )
    assert seen in ways
    assert count == 1, "exactly one request is counted"
    assert outcome.num_answers == (0 if outcome.status in (None, "CANCELLED") else 1)

    num_good = sum(other.status == 200 for other in neighbours)
    backend_calls = grown(before, after, "rope_backend_calls_total")
    assert sum(backend_calls.values()) == num_good, "a refused call is no call of a backend"
    seconds = grown(before, after, "rope_request_duration_seconds_count")
    assert sum(seconds.values()) == 1 + len(neighbours)

    assert LOG_FIELDS <= set(line) <= LOG_FIELDS | FAILURE_FIELDS
    if form.protocol != "grpc stream":
        assert line["code"] == (refusal.code or "client_left")
        assert {"route", "bytes"} <= set(line)
    assert (line["message"], line["path"], str(line["status"])) == ("request", route, label)
    assert line["method"] == ("gRPC" if "grpc" in form.protocol else "POST")

    inference = stats["inference_stats"]
    assert inference["fail"]["count"] == sum(seen.reasons.values())
    assert inference["success"]["count"] == 0
    assert stats["inference_count"] == stats["execution_count"] == 0
    assert (inference["fail"]["ns"] > 0) == bool(seen.reasons)


@pytest.mark.parametrize("form", FORMS, ids=repr)
async def test_a_good_call_in_a_run_with_one_that_fails(form: Form):
    driver = FakeDriver()
    async with whole_service(driver, **LIMITS) as service:
        stage = Stage(service, form, driver)
        before = await stage.until(lambda metrics: metrics["rope_ready"] == 1)
        driver.fault = large_call_fault(driver, break_down)
        service.hold()
        stage.begin_neighbour(POISON)
        await stage.until_waiting(1)
        pending = stage.begin(Call())
        await stage.until_waiting(2)
        service.release()
        outcome = await pending.outcome()
        assert [item.status for item in await stage.end()] == [500]
        after = await stage.until(
            lambda metrics: sum(grown(before, metrics, "rope_requests_total").values()) == 2
        )
    assert outcome == Outcome("OK" if "grpc" in form.protocol else 200, None, 1)
    assert after["rope_batch_requests_count"] - before["rope_batch_requests_count"] == 1
    assert after["rope_batch_requests_sum"] - before["rope_batch_requests_sum"] == 2
    counts = 1 if form.protocol in MODELS else 0
    assert grown(before, after, "nv_inference_request_success").total() == counts
    assert grown(before, after, FAILURES).total() == 0
    assert grown(before, after, "rope_backend_calls_total").total() == 1


@pytest.mark.parametrize("form", FORMS, ids=repr)
async def test_an_answer_that_is_too_large_as_text_comes_as_bytes(form: Form):
    async with whole_service(**LIMITS) as service:
        stage = Stage(service, form, None)
        await stage.until(lambda metrics: metrics["rope_ready"] == 1)
        outcome = await ask(stage, TOO_LARGE_AS_TEXT)
    good = "OK" if "grpc" in form.protocol else 200
    assert outcome.status == (413 if form.name in TEXT else good)


@pytest.mark.parametrize("form", FORMS, ids=repr)
async def test_a_call_that_waits_is_charged_for_what_it_brings_and_what_it_takes(form: Form):
    """Each protocol adds what its own form takes to be read, and text what it takes as text."""
    call = Call(tokens=10)
    async with whole_service(**LIMITS) as service:
        stage = Stage(service, form, None)
        await stage.until(lambda metrics: metrics["rope_ready"] == 1)
        service.hold()
        pending = stage.begin(call)
        await stage.until_waiting(1)
        charged = (await read_metrics(service))["rope_admitted_bytes"]
        service.release()
        assert (await pending.outcome()).num_answers == 1
        await stage.end()
    both = 2 * call.tensor.nbytes
    if form.name in TEXT:
        text = json.dumps(call.tensor.tolist())
        assert charged > 32 * (len(text) + call.tensor.nbytes)
    else:
        assert both < charged < both + 32 * 512, "a header of less than 512 bytes"


def test_each_difference_is_one_of_a_case():
    names = {(refusal.name, form.protocol) for refusal in REFUSALS for form in FORMS}
    assert DIFFERENCES.keys() <= names
    for (name, protocol), difference in DIFFERENCES.items():
        (refusal,) = [item for item in REFUSALS if item.name == name]
        (form,) = [item for item in FORMS if item.protocol == protocol]
        plain = replace(refusal, name="as elsewhere")
        assert expected_of(refusal, form) != expected_of(plain, form), difference.why


REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


def failures(model: str, reason: str) -> str:
    return f'{FAILURES}{{model="{model}",reason="{reason}",version="1"}}'


def statuses() -> set[str]:
    codes = {*CODES.values(), "CANCELLED"}
    return codes | {str(item) for item in (*CODES, 422, 499)}
