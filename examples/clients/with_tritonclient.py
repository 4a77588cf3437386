"""Rotate two tokens with NVIDIA's client: python with_tritonclient.py [http://127.0.0.1:8000]."""

import sys

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
EXPECTED = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]

q = InferInput("q", [1, 2, 1, 4], "FP32")  # [batch, sequence, heads, head_dim]
q.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4))
positions = InferInput("positions", [1, 2], "INT64")
positions.set_data_from_numpy(np.array([[0, 1]]))
outputs = [InferRequestedOutput("q", binary_data=True)]

with InferenceServerClient(URL.removeprefix("http://")) as client:
    try:
        rotated = client.infer("rope", [q, positions], outputs=outputs).as_numpy("q")
    except InferenceServerException as exc:
        sys.exit(str(exc))

print("rotated", *rotated.ravel())
if not np.allclose(rotated.ravel(), EXPECTED, atol=1e-5):
    sys.exit(f"these are not the numbers expected: {EXPECTED}")
