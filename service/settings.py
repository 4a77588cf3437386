"""All settings; each is a field, an environment variable and a command-line flag."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ROPE_"

Seconds = Annotated[float, Field(gt=0, le=1e6)]
Delay = Annotated[float, Field(ge=0, le=1e6)]

_SHAPES = re.compile(r"(\d{1,5}x\d{1,5}x\d{1,5}(,(?!$)|$))*")


def parse_shapes(text: str) -> list[tuple[int, int, int]]:
    """Return (heads, kv_heads, head_dim) of each shape in a text such as `32x8x128,16x16x64`.

    Raises:
        ValueError: the text is not such a list, or a shape is impossible.
    """
    text = text.replace(" ", "")
    if not _SHAPES.fullmatch(text):
        raise ValueError("must be a list of heads x kv_heads x head_dim: 32x8x128,16x16x64")
    shapes = []
    for shape in filter(None, text.split(",")):
        heads, kv_heads, head_dim = map(int, shape.split("x"))
        if not kv_heads or not heads or heads % kv_heads or not head_dim or head_dim % 2:
            raise ValueError(f"{shape}: kv_heads must divide heads, and head_dim be even")
        shapes.append((heads, kv_heads, head_dim))
    return shapes


def _check_shapes(text: str) -> str:
    parse_shapes(text)
    return text


Shapes = Annotated[str, AfterValidator(_check_shapes)]


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of texts that match a pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {expected}")
        return text

    return AfterValidator(check)


# an empty prefix would allow all shared memory objects of the machine
Prefix = Annotated[
    str,
    _matching(r"/?[A-Za-z0-9_.-]{1,200}", "1 to 200 letters, digits, '.', '_' or '-'"),
]

_HOST = r"\s*([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])\s*"
Hosts = Annotated[
    str,
    _matching(rf"({_HOST}(,{_HOST})*)?", "names or addresses separated by commas, without ports"),
]

LINK_PREFIX = "tcp://"
"""Beginning of the values that Kubernetes sets for the Services of a namespace."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the name that is most similar to `name`."""
    (match,) = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)
    return match


class Settings(BaseSettings):
    """Set `ROPE_<NAME>` in the environment, or the flag `--<name>`, which wins. Frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_show_env_vars=True,
    )

    http_host: str = "127.0.0.1"
    """Address to listen on."""

    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """Port to listen on; 0 lets the system choose."""

    status_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """Port of a second HTTP listener at the same address, for health, readiness and metrics only.
    It accepts connections even while `ROPE_HTTP_PORT` is overloaded: use it for probes and
    Prometheus. Always plain HTTP, without TLS. If unset, there is no such port."""

    grpc_port: Annotated[int, Field(ge=0, le=65_535)] = 8001
    """Port of gRPC, at the same address; 0 lets the system choose. Needs the extra `grpc`: without
    it, the service serves HTTP only, and ends with exit code 2 if this is set."""

    unix_socket: Path | None = None
    """Path of a Unix-domain socket that takes HTTP as well, for clients on the same host. Its owner
    and its group may connect."""

    allowed_hosts: Hosts | None = None
    """Names that the header `Host` may have, separated by commas, without ports. `Host` is checked
    if names are set here, or if `ROPE_HTTP_HOST` is a loopback address; another name is answered
    with 400. Always allowed are `localhost`, `127.0.0.1`, `[::1]`, the address of `ROPE_HTTP_HOST`,
    and names without a dot."""

    keys_file: Path | None = None
    """TOML file with the tenants of the service, the SHA-256 hashes of their API keys, and their
    limits (docs/security.md). A changed file is reloaded within a second, or at once after SIGHUP.
    If unset, clients need no key."""

    tls_cert_file: Path | None = None
    """PEM file with the certificate of the service, followed by the intermediate certificates. If
    set, HTTP and gRPC accept TLS 1.2 and newer only; the Unix-domain socket stays without TLS.
    Needs `ROPE_TLS_KEY_FILE`. New connections use a changed certificate after a second at the
    latest, or after SIGHUP."""

    tls_key_file: Path | None = None
    """PEM file with the private key of the certificate, not encrypted."""

    tls_client_ca_file: Path | None = None
    """PEM file with CA certificates. If set, each client must present a certificate that is signed
    by one of these CAs (mutual TLS)."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that computes. `auto` takes the GPU if there is one, and the service ends with the
    reason if torch cannot use it."""

    backend: Literal["auto", "eager", "sdpa", "fused", "varlen"] = "auto"
    """Backend that computes. `auto` takes the first that can run a call. A call that the backend
    named here cannot run is answered with 422. `sdpa` and `varlen` compute attention only; other
    calls go to `auto`."""

    allow_backend: bool = False
    """Whether requests may name a backend, which wins over `ROPE_BACKEND`."""

    threads: PositiveInt | None = None
    """CPU threads of torch. If unset: as many as the control group's quota allows, and at most 4
    with a GPU."""

    presets_dir: Path | None = None
    """Folder with more presets: config.json files named `<name>.json` or `<name>/config.json`. A
    file that is no preset is logged and listed by `/v1/presets` with the reason, and a request that
    names it is answered with 422."""

    shared_memory_prefix: Prefix | None = None
    """Prefix of the POSIX shared memory objects that clients may register. If unset, shared memory
    is off. All clients can then read and write all objects with that prefix."""

    max_body_bytes: PositiveInt = 256 * 2**20
    """Largest body of a request or an answer. A larger request is refused before it is read."""

    max_json_bytes: PositiveInt = 16 * 2**20
    """Largest JSON body. Parsing takes up to 54 times its size in memory."""

    memory_budget_bytes: PositiveInt | None = None
    """Memory that all requests together may take; a request beyond it is refused with 503. If
    unset: a quarter of the control group's limit, at most 4 GiB."""

    prefault_bytes: NonNegativeInt | None = None
    """Memory for large bodies that is touched before the service is ready, and kept. If unset: a
    quarter of `ROPE_MEMORY_BUDGET_BYTES`, at most 320 MiB. With a GPU, pinned memory takes its
    place."""

    max_queue_s: Seconds = 2.0
    """Longest predicted wait for the device, in seconds. A call is refused with 503 if its
    predicted wait is longer than this, or longer than 20 % of the time until its deadline. While
    fewer than 8 calls wait, a call is refused only if it would miss its deadline."""

    max_queue_calls: PositiveInt = 8192
    """Largest number of calls that wait for the device; further calls are refused with 503. This
    limits memory: `ROPE_MAX_QUEUE_S` limits the wait."""

    max_batch_tokens: PositiveInt = 65_536
    """Largest number of tokens in one run of the device."""

    max_batch_bytes: PositiveInt | None = None
    """Largest size of all tensors in one run of the device. If unset: 1 MiB on a CPU, 64 MiB on a
    GPU."""

    max_call_s: Seconds = 10.0
    """Longest estimated compute time of a call; a longer call is answered with 413 at once.
    On a CPU all other calls wait while a call runs."""

    device_stuck_s: Seconds = 30.0
    """Time without progress of a GPU after which the process ends; at least ten times the estimated
    time of its calls."""

    warm_up_shapes: Shapes | None = None
    """Shapes of your models, `heads x kv_heads x head_dim`: `32x8x128,16x16x64`. Their usual
    kernels are built before the service is ready, the rarer ones after that. If unset: 32x8x128 on
    a GPU; a CPU needs no kernels."""

    default_timeout_s: Seconds = 30.0
    """Time from the header of a request to its answer, if the request does not set it."""

    max_timeout_s: Seconds = 300.0
    """Longest timeout that a request may set."""

    max_connections: PositiveInt | None = None
    """Largest number of open HTTP connections. Beyond it, 16 connections may use the routes of
    health, readiness and metrics only, and further connections wait in the backlog of the kernel
    until one closes. If unset: three quarters of the open files that the system allows, at most
    4096."""

    max_header_bytes: Annotated[int, Field(ge=1024, le=2**20)] = 32 * 2**10
    """Largest header of an HTTP request, with its request line."""

    max_header_fields: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Largest number of fields in the header of an HTTP request."""

    max_target_bytes: Annotated[int, Field(ge=64, le=2**20)] = 8 * 2**10
    """Longest target, path and query, of an HTTP request."""

    header_timeout_s: Seconds = 5.0
    """Time from the first byte of a request to the end of its header, and from connecting to the
    first byte."""

    body_grace_s: Seconds = 5.0
    """Time that a body may take in addition to the time that `ROPE_MIN_BODY_RATE` allows."""

    min_body_rate: PositiveInt = 64 * 2**10
    """Bytes per second at which a body must arrive; a slower request is answered with 408. A client
    must read an answer at the same rate, if the answer is too large for the buffers of the
    kernel."""

    keep_alive_s: Seconds = 75.0
    """Time without a request after which a connection is closed. Set a longer time than that of the
    load balancer in front, which could otherwise send a request into a connection that closes."""

    write_stall_s: Seconds = 10.0
    """Interval in which the rate of a client that reads an answer is checked: if the client has
    read less than `ROPE_MIN_BODY_RATE` allows, its connection is reset. A gRPC client has this
    time, and the time of the whole response at that rate; then its RPC is cancelled."""

    sessions: Literal["off", "on", "open"] = "on"
    """Whether clients may keep keys and values in the service between requests (docs/sessions.md).
    `on`: unless the service has no API keys and listens on an address that is not loopback; `open`:
    always."""

    sequence_ids: bool | None = None
    """Whether clients of the Open Inference Protocol may name sessions by a `sequence_id` that they
    choose, which is no secret (docs/oip.md). If unset: with API keys only."""

    kv_bytes: PositiveInt | None = None
    """Memory for the keys and values of sessions. If unset: on a CPU a quarter of the control
    group's limit, on a GPU 60 % of what is free after the warm-up. It is allocated when the first
    session is created."""

    kv_host_bytes: NonNegativeInt = 0
    """Memory of the host for sessions that move there while others need the memory of the GPU:
    those that were not used for 2 s, are not pinned and share no pages. 0: none move. It is
    allocated when the first session is created."""

    kv_page_tokens: Annotated[int, Field(ge=1, le=1024)] = 64
    """Tokens of a page of keys and values. Smaller pages waste less memory for many short rows, and
    are slower."""

    max_sessions: PositiveInt = 1024
    """Largest number of sessions of a tenant."""

    session_ttl_s: Annotated[float, Field(ge=1, le=1e6)] = 3600.0
    """Longest time without use after which a session ends, that a client may ask for. The default
    is 300 s, or this if it is shorter."""

    session_max_age_s: Annotated[float, Field(ge=0, le=1e9)] = 3600.0
    """Largest age of a session in seconds; 0: no limit."""

    session_owner: Annotated[
        str, _matching(r"[A-Za-z0-9_-]{1,63}", "1 to 63 letters, digits, '_' or '-'")
    ] = "0"
    """Name of this process in the ids of its sessions, such as the ordinal of a replica: routers
    send a request to the replica whose name is in the id."""

    session_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Secret of at least 16 characters that signs the ids of sessions; all replicas have the same.
    If unset, each start makes one."""

    session_origins: Annotated[str, _matching(r"\S*", "origins separated by commas")] = ""
    """Values of the header `Origin` that may open a WebSocket, separated by commas: pages of other
    sites are refused."""

    drain_delay_s: Delay = 5.0
    """Time after SIGTERM in which requests are still accepted, while /readyz answers 503."""

    drain_s: Delay = 20.0
    """Time that accepted requests get to finish after that."""

    page: bool = True
    """Whether the service has the page `/ui/`, and `/v1/recent`, which the page reads. The files of
    the page need no API key; what they call does."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged: `info` has one line for each request, `warning` one for each
    request that the service fails to answer (500 and above)."""

    @model_validator(mode="before")
    @classmethod
    def _know_every_variable(cls, values: dict[str, Any]) -> dict[str, Any]:
        # `extra="forbid"` does not look at the environment
        environment = {name.upper(): value for name, value in os.environ.items()}
        variables = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        for name, value in sorted(variables.items()):
            if value.startswith(LINK_PREFIX):
                raise ValueError(
                    f"{name}={value} looks like a link that Kubernetes sets for a Service of that "
                    "name: set enableServiceLinks: false in the pod, or rename the Service"
                )
        legal = {PREFIX + name.upper() for name in cls.model_fields}
        for name in sorted(variables.keys() - legal):
            raise ValueError(
                f"unknown variable {name}; did you mean {nearest(name, legal)}? "
                "`rope-service serve --help` lists all variables"
            )
        return values

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        ports: dict[int, str] = {}
        for name in ("http_port", "grpc_port", "status_port"):
            port, variable = getattr(self, name), PREFIX + name.upper()
            if port and port in ports:
                raise ValueError(f"{ports[port]} and {variable} are both {port}: change one")
            ports[port] = variable
        return self

    @model_validator(mode="after")
    def _check_tls_files(self) -> Self:
        names = ("tls_cert_file", "tls_key_file", "tls_client_ca_file")
        if any(getattr(self, name) is not None for name in names):
            for name in names[:2]:
                if getattr(self, name) is None:
                    variable = PREFIX + name.upper()
                    raise ValueError(
                        f"{variable} is missing: TLS needs a certificate and its private key"
                    )
        return self
