"""wrk, on a core of its own, and what it says."""

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
local requests, at = {}, 0

local function read(path)
  local file = assert(io.open(path, "rb"))
  local all = file:read("*a")
  file:close()
  return all
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
    at = at %% #requests + 1
    return requests[at]
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
class Measured:
    """What some seconds of load gave."""

    rate: float
    """Answers per second."""

    cpu_s: float
    """Processor time of the server for one answer."""

    load_busy: float
    """Share of its core that wrk took; near 1, it measured itself."""

    p50_ms: float
    p99_ms: float


class Failed(Exception):
    """An answer was not 2xx, did not come, or was too short."""


@contextmanager
def prepared(workload: Workload) -> Iterator[list[Path]]:
    """Write script and bodies to a folder; returns the script's path, then the bodies'."""
    with TemporaryDirectory(prefix="rope-bench-") as folder:
        script = Path(folder, "post.lua")
        script.write_text(SCRIPT % MEDIA_TYPE)
        bodies = [Path(folder, str(i)) for i in range(len(workload.lengths))]
        for path, length in zip(bodies, workload.lengths, strict=True):
            path.write_bytes(workloads.body(workload, length))
        yield [script, *bodies]


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of connections, from a core of its own."""

    core: int
    path: str
    files: Sequence[Path]
    connections: int
    seconds: int

    def measure(self, server: Server, least_bytes: int) -> Measured:
        """Put it on a server whose answers have `least_bytes` or more.

        Raises:
            Failed: one answer at least was none.
        """
        begun, served, loaded = time.perf_counter(), server.cpu_s(), _children_s()
        run = subprocess.run(self._command(server.port), capture_output=True, text=True)
        took = time.perf_counter() - begun
        served, loaded = server.cpu_s() - served, _children_s() - loaded
        if run.returncode:
            raise Failed(f"wrk: {run.stderr.strip() or run.stdout.strip()}")
        said = json.loads(run.stdout.splitlines()[-1])
        requests = said["requests"]
        if said["refused"] or said["broken"] or not requests:
            raise Failed("{requests} answers, {refused} not 2xx, {broken} broken".format(**said))
        if said["bytes"] < requests * least_bytes:
            raise Failed("{requests} answers have {bytes} bytes in all".format(**said))
        rate = requests / said["seconds"]
        return Measured(rate, served / requests, loaded / took, said["p50_ms"], said["p99_ms"])

    def _command(self, port: int) -> list[str]:
        script, *bodies = map(str, self.files)
        pinned = ["taskset", "-c", str(self.core), "wrk", "--timeout", "60s", "-s", script]
        much = ["-t1", f"-c{self.connections}", f"-d{self.seconds}s"]
        return [*pinned, *much, f"http://127.0.0.1:{port}{self.path}", "--", *bodies]


def missing() -> str | None:
    """Return what stands against measuring here."""
    absent = [name for name in ("wrk", "taskset") if not shutil.which(name)]
    return f"needs {' and '.join(absent)}: apt-get install wrk util-linux" if absent else None


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
