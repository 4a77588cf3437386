"""Load from wrk on its own core."""

import json
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import workloads
from benchmarks.servers import Server
from benchmarks.workloads import MEDIA_TYPE, Workload

SCRIPT = """
local requests, index = {}, 0

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

wrk.method = "POST"
wrk.headers["Content-Type"] = "%s"

function init(paths)
  if #paths == 1 then
    wrk.body = read(paths[1])
    return
  end
  for i, path in ipairs(paths) do
    requests[i] = wrk.format(nil, nil, nil, read(path))
  end
  function request()
    index = index %% #requests + 1
    return requests[index]
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %%d, "seconds": %%f, "bytes": %%.0f, "p50_ms": %%f, "p99_ms": %%f, ' ..
    '"refused": %%d, "broken": %%d}\\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Result of one measurement of load."""

    rate: float
    """Responses per second."""

    cpu_s: float
    """Processor time of the server per response."""

    load_busy: float
    """Share of its core that wrk used. Near 1, wrk is the bottleneck."""

    p50_ms: float
    p99_ms: float


class LoadError(Exception):
    """A response was not 2xx, too short, or missing."""


@contextmanager
def load_files(workload: Workload) -> Iterator[list[Path]]:
    """Write the script and the bodies to a folder; yield the script's path, then the bodies'."""
    with TemporaryDirectory(prefix="rope-bench-") as folder:
        script = Path(folder, "post.lua")
        script.write_text(SCRIPT % MEDIA_TYPE)
        bodies = [Path(folder, str(i)) for i in range(len(workload.lengths))]
        for path, length in zip(bodies, workload.lengths, strict=True):
            path.write_bytes(workloads.request_body(workload, length))
        yield [script, *bodies]


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of requests on several connections, from its own core."""

    core: int
    path: str
    files: Sequence[Path]
    connections: int
    seconds: int

    def measure(self, server: Server, min_bytes: int) -> Measurement:
        """Send requests to a server whose responses have at least `min_bytes`.

        Raises:
            LoadError: a request failed.
        """
        start, server_cpu_s, load_cpu_s = time.perf_counter(), server.cpu_s(), _children_cpu_s()
        run = subprocess.run(self._command(server.port), capture_output=True, text=True)
        elapsed_s = time.perf_counter() - start
        server_cpu_s = server.cpu_s() - server_cpu_s
        load_cpu_s = _children_cpu_s() - load_cpu_s
        if run.returncode:
            raise LoadError(f"wrk: {run.stderr.strip() or run.stdout.strip()}")
        summary = json.loads(run.stdout.splitlines()[-1])
        requests = summary["requests"]
        if summary["refused"] or summary["broken"] or not requests:
            raise LoadError(
                "{requests} responses, {refused} not 2xx, {broken} broken".format(**summary)
            )
        if summary["bytes"] < requests * min_bytes:
            raise LoadError("{requests} responses have {bytes} bytes in total".format(**summary))
        rate = requests / summary["seconds"]
        return Measurement(
            rate,
            server_cpu_s / requests,
            load_cpu_s / elapsed_s,
            summary["p50_ms"],
            summary["p99_ms"],
        )

    def _command(self, port: int) -> list[str]:
        script, *bodies = map(str, self.files)
        command = ["taskset", "-c", str(self.core), "wrk", "--timeout", "60s", "-s", script]
        options = ["-t1", f"-c{self.connections}", f"-d{self.seconds}s"]
        return [*command, *options, f"http://127.0.0.1:{port}{self.path}", "--", *bodies]


def missing_programs() -> str | None:
    """Return which programs are missing and how to install them, or None."""
    absent = [name for name in ("wrk", "taskset") if not shutil.which(name)]
    return f"needs {' and '.join(absent)}: apt-get install wrk util-linux" if absent else None


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
