"""LitServe with raw bytes and batches of what waits."""

from collections.abc import Sequence
from typing import Annotated

import litserve
from fastapi import Body, Response
from torch import Tensor

from benchmarks.peers import functions
from benchmarks.peers.arguments import http_port
from benchmarks.peers.functions import Tensors


class Api(litserve.LitAPI):
    """The steps of a request in the worker process."""

    def setup(self, device: str) -> None:
        """Prepare the worker process."""
        functions.set_up()

    def decode_request(self, request: Annotated[bytes, Body()]) -> Tensors:
        """Return the tensors of a body."""
        return functions.read_raw(request)

    def batch(self, inputs: list[Tensors]) -> list[Tensors]:
        """Leave the requests apart: `compute_batch` joins those of equal shapes."""
        return inputs

    def predict(self, x: list[Tensors]) -> Sequence[Tensor]:
        """Return the output of each request."""
        return functions.compute_batch(x)

    def unbatch(self, output: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the outputs as they are."""
        return output

    def encode_response(self, output: Tensor) -> Response:
        """Return the bytes of an output."""
        return Response(output.numpy().tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Api(max_batch_size=functions.MAX_BATCH, api_path="/compute")
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(
        host="127.0.0.1",
        port=http_port(),
        generate_client_file=False,
        num_api_servers=1,
        log_level="warning",
        timeout_keep_alive=60,
    )
