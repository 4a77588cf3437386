"""Ray Serve with raw bytes and batches of what waits."""

import os
import time
from collections.abc import Sequence

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from benchmarks.peers import functions
from benchmarks.peers.arguments import http_port
from benchmarks.peers.functions import Tensors


@serve.deployment(max_ongoing_requests=100)
class Compute:
    """One replica."""

    def __init__(self) -> None:
        functions.set_up()

    async def __call__(self, request: Request) -> Response:
        """Return the bytes of the output."""
        out = await self.compute(functions.read_raw(await request.body()))
        return Response(out.numpy().tobytes(), media_type="application/octet-stream")

    @serve.batch(max_batch_size=functions.MAX_BATCH, batch_wait_timeout_s=0)
    async def compute(self, requests: list[Tensors]) -> Sequence[Tensor]:
        """Return the output of each request."""
        return functions.compute_batch(requests)


if __name__ == "__main__":
    port = http_port()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Compute.bind(), route_prefix="/compute")
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        ray.shutdown()
