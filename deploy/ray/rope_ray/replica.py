"""One replica: the whole service in an actor of Ray, with a port of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import ray
from ray import serve
from ray.serve.context import ReplicaContext

if TYPE_CHECKING:
    from rope_ray.scrape import Scrape


class Unhealthy(Exception):
    """The service has ended or its device has failed: Ray replaces the replica."""


@serve.ingress()
class Replica:
    """Serves what Ray's proxy sends, and what comes to its own port.

    Args:
        direct: whether the own port listens on the address of the node and is shown in
            `X-Session-Endpoint`. Otherwise it listens on 127.0.0.1.
    """

    def __init__(self, direct: bool) -> None:
        from rope_ray.settings import replica_settings
        from service.observability import logs
        from service.server.serve import build_server

        context: ReplicaContext = serve.get_replica_context()
        self._id = context.replica_id
        host = ray.util.get_node_ip_address() if direct else None
        resources = ray.get_runtime_context().get_assigned_resources()
        self._settings = replica_settings(
            self._id.unique_id, host=host, num_cpus=resources.get("CPU", 1.0)
        )
        self._direct = direct
        logs.set_up(self._settings.log_level)
        self._built = build_server(self._settings, listens_for_grpc=False)
        self._serving: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> object:  # Ray's name
        from rope_ray.proxy_app import ProxyApp

        return ProxyApp(
            self._built.app,
            self._lifespan(),
            is_alive=self._is_alive,
            endpoint=self._endpoint,
        )

    async def check_health(self) -> None:
        """Raise Unhealthy after a failure; Ray calls this on the event loop of the service."""
        from service.lifecycle import EXIT_CODES

        phase = self._built.lifecycle.phase
        if phase in EXIT_CODES or self._serving is None or self._serving.done():
            raise Unhealthy(f"the service has ended: {phase.value}")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the used share of each limit, 0 to 1, for `rope_ray.autoscaling`."""
        from rope_ray.utilization import utilization

        return utilization(self._built.service.metrics.registry)

    async def metrics(self, authorization: list[bytes]) -> "Scrape":
        """Return the metrics of the replica, for `rope_ray.metrics`."""
        from rope_ray.scrape import scrape

        return scrape(self._built.service, self._id.unique_id, authorization)

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        """Start the service and wait until it is ready; at the end, drain it as SIGTERM does."""
        lifecycle = self._built.lifecycle
        self._serving = asyncio.create_task(self._serve())
        ready = asyncio.create_task(self._wait_until_ready())
        await asyncio.wait({self._serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        await self.check_health()
        yield
        if not lifecycle.ending:  # Ray sends no more requests; those to the own port still come
            lifecycle.drain()
            lifecycle.begin_drain()
        await self._serving

    async def _wait_until_ready(self) -> None:
        """Return when the service is ready, or when its device has failed."""
        from service.lifecycle import Phase

        await self._built.server.listening.wait()
        async for phase in self._built.lifecycle.changes():
            if phase is not Phase.WARMING_UP:
                return

    async def _serve(self) -> None:
        try:
            await self._built.server.serve()
        except SystemExit as failure:  # would end Ray's event loop
            raise Unhealthy(f"exit code {failure.code}: see the log of the replica") from None

    async def _is_alive(self, owner: str) -> bool:
        """Return whether the owner runs: the proxy may not know a new replica yet."""
        other = type(self._id)(owner, self._id.deployment_id).to_full_id_str()
        try:
            await asyncio.to_thread(ray.get_actor, other, "serve")
        except ValueError:
            return False
        return True

    def _endpoint(self) -> str | None:
        if not self._direct:
            return None
        scheme = "https" if self._settings.tls_cert_file else "http"
        host = self._settings.http_host
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}:{self._built.server.http_port}"
