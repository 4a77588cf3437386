"""Every setting: a field, an environment variable and a command-line flag."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ROPE_"

Seconds = Annotated[float, Field(gt=0, le=1e6)]
Delay = Annotated[float, Field(ge=0, le=1e6)]

_SHAPES = re.compile(r"(\d{1,5}x\d{1,5}x\d{1,5}(,(?!$)|$))*")


def shapes_of(text: str) -> list[tuple[int, int, int]]:
    """Return heads, heads of keys and width of each shape of a list.

    Raises:
        ValueError: it is not such a list, or no model has these.
    """
    text = text.replace(" ", "")
    if not _SHAPES.fullmatch(text):
        raise ValueError("expected a list of heads x kv_heads x head_dim: 32x8x128,16x16x64")
    shapes = []
    for shape in filter(None, text.split(",")):
        heads, kv_heads, head_dim = map(int, shape.split("x"))
        if not kv_heads or not heads or heads % kv_heads or not head_dim or head_dim % 2:
            raise ValueError(f"{shape}: kv_heads must divide heads, and head_dim be even")
        shapes.append((heads, kv_heads, head_dim))
    return shapes


def _check_shapes(text: str) -> str:
    shapes_of(text)
    return text


Shapes = Annotated[str, AfterValidator(_check_shapes)]

# never an empty one, which would allow every object of the machine
Prefix = Annotated[str, StringConstraints(pattern=r"^/?[A-Za-z0-9_.-]{1,200}$")]

_LINK = re.compile(r"_SERVICE_(HOST|PORT)|^ROPE_PORT$|_PORT_\d+_(TCP|UDP)")


class Settings(BaseSettings):
    """Set as `ROPE_<NAME>` in the environment or as `--<name>`, which wins; frozen once made."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    http_host: str = "127.0.0.1"
    """Address to listen on."""

    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """Port to listen on; 0 lets the system choose."""

    grpc_port: Annotated[int, Field(ge=0, le=65_535)] = 8001
    """Port of gRPC, at the same address; 0 lets the system choose."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors are computed on; `auto` takes the GPU if there is one, and ends with the reason
    if torch cannot use it."""

    backend: Literal["auto", "eager", "sdpa", "fused", "varlen"] = "auto"
    """Which backend computes; `auto` takes the first that can do a call. What the one named here
    declines is answered with 422; `sdpa` and `varlen` attend only, and leave rotations and mergers
    to `auto`."""

    allow_backend: bool = False
    """Whether a request may name a backend, which then wins over `ROPE_BACKEND`."""

    threads: PositiveInt | None = None
    """Threads of torch on the CPU; as many as the control group's quota allows where unset, at most
    4 where a GPU computes."""

    presets_dir: Path | None = None
    """Folder of config.json files, `<name>.json` or `<name>/config.json`, that are presets, too."""

    shared_memory_prefix: Prefix | None = None
    """Prefix of the POSIX shared memory names that clients may register; unset: shared memory is
    off. Whoever can reach the service can then read and write all objects of that prefix."""

    max_body_bytes: PositiveInt = 256 * 2**20
    """Largest body, asked or answered; a larger one is refused before it is read."""

    max_json_bytes: PositiveInt = 16 * 2**20
    """Largest JSON body; reading one takes up to 32 times its size."""

    memory_budget_bytes: PositiveInt | None = None
    """Memory that all requests together may take, beyond which one is refused with 503; a quarter
    of the control group's limit, at most 4 GiB, where unset."""

    max_queue_calls: PositiveInt = 1024
    """Calls waiting for the device, beyond which one is refused with 503."""

    max_batch_tokens: PositiveInt = 65_536
    """Tokens that one run of the device may hold."""

    max_batch_bytes: PositiveInt | None = None
    """Bytes of tensors that one run of the device may hold; 1 MiB on a CPU and 64 MiB on a GPU
    where unset."""

    max_call_s: Seconds = 60.0
    """Longest that one call may be estimated to compute; beyond it the answer is 413."""

    device_stuck_s: Seconds = 30.0
    """Time after which a GPU that answers nothing is given up, and the process with it; ten times
    the estimate of what it is at where that is more."""

    warm_up_shapes: Shapes | None = None
    """Shapes of your models, `heads x kv_heads x head_dim`: `32x8x128,16x16x64`. The kernels that
    each of them usually needs are there before the service is ready, the rarer ones are built
    after that. Where unset: 32x8x128 on a GPU; on a CPU no kernels are built."""

    default_timeout_s: Seconds = 30.0
    """Time from a request's head to its answer, where the request does not set it."""

    max_timeout_s: Seconds = 300.0
    """Longest time that a request may set."""

    drain_delay_s: Delay = 5.0
    """Time after SIGTERM in which requests are still accepted, while /readyz says no."""

    drain_s: Delay = 20.0
    """Time that accepted requests then get to finish."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of what is logged; `info` has one line a request."""

    @property
    def logs_requests(self) -> bool:
        """Whether each request is a line of the log."""
        return self.log_level in ("debug", "info")

    @model_validator(mode="before")
    @classmethod
    def _know_every_variable(cls, values: dict[str, Any]) -> dict[str, Any]:
        # `extra="forbid"` does not look at the environment
        environment = {name.upper(): value for name, value in os.environ.items()}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        known = {PREFIX + name.upper() for name in cls.model_fields}
        for name, value in sorted(given.items()):
            if "://" in value or (name not in known and _LINK.search(name)):
                raise ValueError(
                    f"{name}={value} looks like a link that Kubernetes sets for a Service of that "
                    "name: set enableServiceLinks: false in the pod, or rename the Service"
                )
            if name not in known:
                raise ValueError(f"unknown variable {name}; known are {', '.join(sorted(known))}")
        return values
