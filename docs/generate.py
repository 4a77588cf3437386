"""Write the generated pages of the documentation: `python -m docs.generate`."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import Metric
from pydantic_core import PydanticUndefined

from docs.alert_pages import alerts_page
from docs.error_examples import Row, answer_examples
from docs.metric_guide import ADVICE
from docs.mistake_pages import write_mistake_pages
from rope_core.hf.families import families
from rope_core.hf.family import Family
from service.asgi.problems import PROBLEMS, problem_for
from service.endpoints.catalog import list_variants
from service.exit_codes import EXIT_CODES
from service.observability.metrics import Metrics
from service.oip.errors import STATUSES, classify
from service.oip.grpc.errors import status_of
from service.oip.statistics import Statistics, TritonMetrics
from service.sessions.lifetime.ids import SessionIds
from service.sessions.lifetime.table import SessionTable
from service.sessions.metrics import SessionMetrics
from service.settings import PREFIX, Settings

DOCS = Path(__file__).parent
ERROR_EXAMPLES = DOCS.parent / "service" / "v1" / "error_examples.json"

SETTINGS = """# Settings

Made from `service/settings.py` by `make docs`.

Each setting is an environment variable and a flag of `rope-service serve`; the flag wins. An
unknown `ROPE_` variable stops the start. `rope-service serve --print-config` prints the settings in
force, `rope-service serve --help` lists all flags and variables.

| variable | flag | default | |
|---|---|---|---|
"""

EXITS = """
## Exit codes

An error that stops the start is one line on standard error; for a port, it is a line of the log.

| code | meaning |
|---|---|
"""

VARIANTS = """# Variants, schemes, builders, models without rope

Made from the library by `make docs`. A running service answers the same at `/v1/variants`, with
sources and models. A parameter in parentheses is optional; its default follows the name, if there
is one.

## Variants: `rope_type`

A variant decides the frequencies. Its parameters are members of `rope`, next to `rope_type`.

| rope_type | parameters | |
|---|---|---|
"""

SCHEMES = """
## Schemes of several axes: `axes`

A scheme decides which axis of a position each angle uses. Its parameters are members of `rope`,
next to `axes`.

| axes | parameters | |
|---|---|---|
"""

BUILDERS = """
## Builders of positions: `builder`

A builder makes the positions of a model family (`/v1/positions`). Its tensors are tensors of the
message; all other arguments are members of `arguments`.

| builder | tensors | arguments | |
|---|---|---|---|
"""

WITHOUT_ROPE = """
## Models without rotary embedding

`/v1/resolve` answers `rotates: false` for these model types, with the kind as the reason in `nope`.
`/v1/rotate` refuses them, and `/v1/attention` attends without rotation. The table is made from the
code of transformers by `tools/no_rope.py`. A composite model has the rotation of its text part.

| kind | model types |
|---|---|
"""


REMOTE = """
## Families of remote code

Configs that are read by the rules of code in the model's own repository, and not of a class of
transformers: by `model_type`, or by the form of the file. `part` is the one of the request.

| family | other names | part | published code |
|---|---|---|---|
"""


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
        text = " ".join((field.description or "").split())
        flag = name.replace("_", "-")
        rows.append(f"| `{PREFIX}{name.upper()}` | `--{flag}` | {default} | {text} |\n")
    codes = (f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return SETTINGS + "".join(rows) + EXITS + "".join(codes)


def catalogue_page() -> str:
    """Return the text of docs/catalogue.md."""
    catalogue = list_variants()
    return (
        VARIANTS
        + "".join(map(_entry, catalogue["variants"]))
        + SCHEMES
        + "".join(map(_entry, catalogue["schemes"]))
        + BUILDERS
        + "".join(map(_builder, catalogue["builders"]))
        + REMOTE
        + "".join(_family(family) for family in families().values() if family.source)
        + WITHOUT_ROPE
        + "".join(
            f"| {kind} | {', '.join(f'`{name}`' for name in names)} |\n"
            for kind, names in catalogue["models_without_rope"].items()
        )
    )


def _family(family: Family) -> str:
    names = ", ".join(f"`{name}`" for name in family.model_type_aliases)
    return f"| `{family.name}` | {names} | {family.part} | <{family.source}> |\n"


def _entry(entry: dict[str, Any]) -> str:
    return f"| `{entry['name']}` | {_list(entry['parameters'])} | {entry['summary']} |\n"


def _builder(builder: dict[str, Any]) -> str:
    tensors = [a for a in builder["arguments"] if a["type"] == "tensor"]
    others = [a for a in builder["arguments"] if a["type"] != "tensor"]
    text = builder["summary"].removeprefix("Return ")
    return f"| `{builder['name']}` | {_list(tensors)} | {_list(others)} | {text} |\n"


def _list(parameters: list[dict[str, Any]]) -> str:
    return ", ".join(map(_parameter, parameters))


def _parameter(parameter: dict[str, Any]) -> str:
    name, default = f"`{parameter['name']}`", parameter["default"]
    if parameter["required"]:
        return name
    if isinstance(default, bool):
        default = str(default).lower()
    return f"({name})" if default is None else f"({name} {default})"


def clients_page() -> str:
    """Return the text of docs/clients.md with the current contents of the example programs."""
    page = (DOCS / "clients.md").read_text()
    programs = re.compile(
        r"(\]\((\.\./examples/clients/[^)]+)\)\n\n```\w+\n).*?^```$", re.DOTALL | re.MULTILINE
    )
    return programs.sub(lambda match: f"{match[1]}{(DOCS / match[2]).read_text()}```", page)


ERRORS = """# Errors

Made by `make docs` from `docs/error_examples.py`: the service answered each example request below.
What to send for a config, or positions, that gets an error or a warning:
[troubleshooting.md](troubleshooting.md).

Over HTTP, `/v1` answers a problem document with a `code`; `/v2` answers `{"error": text}`. Over
gRPC the text is in the status. The text is for people; programs read the code and the status,
which do not change. A column without a value means that the protocol does not have the error.

The router answers 404 (`/v1`: `not_found`) if no route has the path, and names the nearest route.
It answers 405 (`method_not_allowed`) if the route has another method, and names the methods to use,
in the header `Allow` as well. gRPC answers `UNIMPLEMENTED`. A bug of the service is answered with
500 (`internal`) or `INTERNAL`, and the text `internal error`; the log has the rest.

| error | `/v1` | `/v2` | gRPC | example | cause | remedy |
|---|---|---|---|---|---|---|
"""


def errors_page() -> str:
    """Return the text of docs/errors.md."""
    return ERRORS + "".join(_error(row, texts) for row, texts in answer_examples())


def _error(row: Row, texts: list[str]) -> str:
    error = row.error.__new__(row.error, texts[0])
    statuses = {"/v2": str(classify(error)[0])}
    if any(kind in PROBLEMS for kind in row.error.__mro__):
        problem = problem_for(error)
        statuses["/v1"] = f"{problem.status} `{problem.code}`"
    if "gRPC" in row.protocols:
        statuses["gRPC"] = f"`{status_of(error)[0].name}`"
    columns = [statuses.get(p, "") if p in row.protocols else "" for p in ("/v1", "/v2", "gRPC")]
    requests = [f"`{example}`: " for example in row.examples] or [""]
    examples = [f"{request}{text}" for request, text in zip(requests, texts, strict=True)]
    cells = [row.error.__name__, *columns, "<br>".join(examples), row.cause, row.remedy]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def error_examples() -> str:
    """Return the text of service/v1/error_examples.json: for each error one text a protocol."""
    examples = {}
    for row, texts in answer_examples():
        example = {"cause": row.cause, "remedy": row.remedy}
        answered = [*zip(row.examples, texts, strict=False)]
        protocols = {"/v2"} if row.error in STATUSES else {"/v1", "/v2"}
        for protocol in sorted(protocols.intersection(row.protocols)):
            own = [text for request, text in answered if f" {protocol}/" in request.target]
            example[protocol] = (own or texts)[0]
        examples[row.error.__name__] = example
    return json.dumps(examples, indent=1, sort_keys=True) + "\n"


METRICS = """# Metrics and logs

Made by `make docs`: the meaning is the HELP text of the metric, the last two columns are from
`docs/metric_guide.py`.

`GET /metrics` has the metrics in the text format of Prometheus. Counters have the suffix `_total`
there, histograms `_bucket`, `_sum` and `_count`. `rope_build_info` has the versions as labels. A
metric that has a limit is followed by the limit: `rope_queue_depth` by `rope_queue_limit`.

`deploy/prometheus/rules.yaml` has the [alerts](alerts.md). `deploy/grafana/rope-service.json` is a
dashboard with the rows of the page `/ui/live.html`: requests, latency, queue, device, calls a run.
To use them, add the file to `rule_files` of Prometheus, and import the dashboard into Grafana.
Tests compare each expression of both with the metrics that the service has.

`GET /v1/recent` has the last 15 minutes second by second, for the page and for `rope-service top`
([api.md](api.md#the-last-15-minutes)); Prometheus does not need it.

The label `op` of `rope_session_ops_total` is an operation of
[sessions.md](sessions.md#operations), over any protocol, or `create`, `list`, `inspect`, `change`
(`PATCH`), `delete`, `export` or `step_many` (`POST /v1/step`, where each session counts as a `step`
as well), or `unknown` for a message of a stream that names none. Its `code` is `ok`, one of
[errors.md](errors.md), or `client_left`. No metric has an id or a name of a session.

| metric | type | labels | meaning | when to worry | what to do |
|---|---|---|---|---|---|
"""

LOGS = """
The names `nv_inference_*` are those of Triton, for its dashboards; times are microseconds.

## Logs

Each line of standard output is one JSON object in ASCII. A request is logged when its answer is
sent:

    {"time": 1764446400.1, "level": "info", "message": "request", "request_id": "me",
     "method": "POST", "path": "/v1/rotate", "status": 200, "ms": 0.512,
     "trace_id": "0af7651916cd43dd8448eb211c80319c"}

The line of a request that fails says why:

    {"time": 1764446400.2, "level": "info", "message": "request", "request_id": "me",
     "method": "POST", "path": "/v1/rotate", "status": 422, "ms": 0.31, "route": "/v1/rotate",
     "bytes": 2103, "shapes": {"q": "float32[1, 8, 1, 64]"}, "code": "config",
     "detail": "rope.theta must be finite and in [1e-6, 1e12], got 0.0"}

| field | meaning |
|---|---|
| `time` | seconds since 1970, when the line was written |
| `level` | `info`; `warning`, also for a request that the service failed to answer; `error` |
| `message` | `request`, or what happened |
| `logger` | part of the service, in lines that are not of requests |
| `request_id` | the client's `X-Request-Id`, or a new one; the answer has it as well |
| `trace_id` | trace of the `traceparent` header, if there is one |
| `method` | of HTTP; `gRPC` for an RPC |
| `path` | path as the client wrote it, without the query, at most 128 characters |
| `status` | status of HTTP, or the name of the gRPC status; 499: the client left |
| `ms` | milliseconds from the header of the request to the end of its answer |
| `route` | label `route` of the metrics; failed requests only, as all fields below |
| `code` | code of [errors.md](errors.md), over every protocol; `client_left` for 499 |
| `detail` | text of the error, as the client got it |
| `shapes` | dtype and shape of each tensor, at most eight, if the request could be read |
| `bytes` | length of the body |
| `backend` | backend of the call: the name in the request or in `ROPE_BACKEND`, or `auto` |
| `exception` | traceback, in lines of unexpected errors |

A request has the level `warning` if its status is 500 or above, over gRPC if it is `UNAVAILABLE`,
`INTERNAL`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `UNKNOWN` or `DATA_LOSS`.

If only `/v2` and gRPC have an error, `code` is the name of the error, such as `unknown_model`.

API keys and queries of a URL are never logged. A failed request of a gRPC stream has its own line,
with the message `a request of a stream failed`, because the stream goes on. Health checks and
`/metrics` are counted but not logged. `ROPE_LOG_LEVEL=warning` logs only requests that the service
failed to answer; `error` logs no requests.

Lines are written without waiting. If standard output is full or closed, the service goes on: one
line on standard error reports the cause, lost lines are counted in `rope_log_lines_dropped_total`,
and a line with `num_dropped` follows when writing succeeds again.
"""


class NoArenas(NamedTuple):
    """The memory of a service before its first session."""

    device: None = None
    host: None = None


def metrics_page() -> str:
    """Return the text of docs/metrics.md."""
    metrics = Metrics()
    labels = {
        collector._name: collector._labelnames
        for collector in metrics.registry._collector_to_names
        if hasattr(collector, "_labelnames")
    }
    models = {"rope": Statistics("rope", lambda: 0)}
    rows = [_metric(family, labels.get(family.name, ())) for family in metrics.registry.collect()]
    sessions = SessionMetrics(SessionTable(SessionIds("0", None)), NoArenas())
    for collector in (sessions, TritonMetrics(models)):
        rows += [_metric(family, tuple(family.samples[0].labels)) for family in collector.collect()]
    return METRICS + "".join(rows) + LOGS


def _metric(family: Metric, labels: tuple[str, ...]) -> str:
    advice = ADVICE[family.name]
    cells = (f"`{family.name}`", family.type, _names(labels), family.documentation, *advice)
    return f"| {' | '.join(cells)} |\n"


def _names(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


PAGES = {
    "alerts": alerts_page,
    "errors": errors_page,
    "metrics": metrics_page,
    "settings": settings_page,
    "catalogue": catalogue_page,
    "clients": clients_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / f"{name}.md").write_text(page())
    ERROR_EXAMPLES.write_text(error_examples())
    write_mistake_pages()
