"""Rounds in which the service and a peer take turns."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks import encodings, h2load, servers
from benchmarks.encodings import EncodedRequest
from benchmarks.load import Exchange, Load, Measurement, exchange_files
from benchmarks.peers import environment
from benchmarks.peers.peer import Peer
from benchmarks.servers import Server
from benchmarks.service_rounds import in_turns
from benchmarks.table import Row
from benchmarks.workloads import BY_NAME, LARGE, Workload

SERVICE, PEER = "service", "peer"


@dataclass(frozen=True, slots=True)
class PeerBenchmark:
    """How to measure a peer."""

    serve_core: int
    load_core: int
    rounds: int
    quick: bool

    def rows(self, peer: Peer) -> Iterator[Row]:
        """Yield a row for each workload and number of connections: 64, for 32 MiB 1 and 8.

        A failure is a row with the reason; its workload is "" if the peer does not start.
        """
        with ExitStack() as stack:
            try:
                peer_server = stack.enter_context(self._started(peer))
                service = stack.enter_context(servers.started("service", self.serve_core))
            except SystemExit as exc:
                yield {"peer": peer.name, "workload": "", "failed": _one_line(exc)}
                return
            started = {SERVICE: service, PEER: peer_server}
            for workload in map(BY_NAME.__getitem__, peer.workloads):
                for connections in (1, 8) if workload is LARGE else (64,):
                    row: Row = {"peer": peer.name, "workload": f"{workload.name}, {connections}"}
                    try:
                        yield row | self._measure(peer, workload, connections, started)
                    except (Exception, SystemExit) as exc:
                        yield row | {"failed": _one_line(exc)}

    def _started(self, peer: Peer) -> AbstractContextManager[Server]:
        return servers.started(
            f"benchmarks.peers.{peer.module}",
            self.serve_core,
            grpc=peer.grpc,
            python=environment.interpreter(peer.requirements),
            environment=os.environ,
            ready_path=peer.ready_path,
        )

    def _measure(
        self, peer: Peer, workload: Workload, connections: int, started: dict[str, Server]
    ) -> Row:
        seconds = workload.seconds / 8 if self.quick else workload.seconds
        encoders = {SERVICE: encodings.encode, PEER: peer.encode}
        with ExitStack() as stack:
            loads = {}
            for name, server in started.items():
                requests = [encoders[name](workload, length) for length in workload.lengths]
                loads[name] = self._load(stack, workload, requests, connections, server)
                loads[name](seconds / 3)  # not timed: first use of memory and connections
            runs = {name: lambda load=load: load(seconds) for name, load in loads.items()}
            return _medians([*in_turns(runs, self.rounds)])

    def _load(
        self,
        stack: ExitStack,
        workload: Workload,
        requests: list[EncodedRequest],
        connections: int,
        server: Server,
    ) -> Callable[[float], Measurement]:
        """Return a function that loads a server, whose responses are checked here, for seconds."""
        responses = [
            encodings.output(workload, length, request, server)
            for length, request in zip(workload.lengths, requests, strict=True)
        ]
        if requests[0].grpc:
            (request,), (response,) = requests, responses
            return lambda seconds: h2load.Load(
                self.load_core, request, connections, max(1, round(seconds))
            ).measure(server, len(response))
        exchanges = [Exchange(r.http(), body) for r, body in zip(requests, responses, strict=True)]
        files = stack.enter_context(exchange_files(exchanges))
        return lambda seconds: Load(self.load_core, files, connections, seconds).measure(server)


def _medians(rounds: list[dict[str, Measurement]]) -> Row:
    row: Row = {}
    for name, prefix in ((SERVICE, ""), (PEER, "peer_")):
        measured = [servers[name] for servers in rounds]
        row[f"{prefix}rate"] = median(m.rate for m in measured)
        row[f"{prefix}p50_ms"] = median(m.p50_ms for m in measured)
        row[f"{prefix}p99_ms"] = median(m.p99_ms for m in measured)
        row[f"{prefix}cpu_us"] = median(m.cpu_s for m in measured) * 1e6
    ratios = [servers[SERVICE].rate / servers[PEER].rate for servers in rounds]
    return row | {
        "x": median(ratios),
        "x_least": min(ratios),
        "x_most": max(ratios),
        "x_cpu": median(servers[PEER].cpu_s / servers[SERVICE].cpu_s for servers in rounds),
    }


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()).replace("|", "/")[:300]
