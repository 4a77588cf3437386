"""The model that Triton's python backend loads."""

import json
from typing import Any

import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack, to_dlpack

from benchmarks.peers import functions


class TritonPythonModel:
    """Rotation or attention, which depends on the inputs in the model's config."""

    def initialize(self, args: dict[str, str]) -> None:
        """Keep the names of the inputs."""
        functions.set_up()
        self.names = [entry["name"] for entry in json.loads(args["model_config"])["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response for each request of a batch."""
        inputs = [
            {
                name: from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())
                for name in self.names
            }
            for request in requests
        ]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("out", to_dlpack(out))])
            for out in functions.compute_batch(inputs)
        ]
