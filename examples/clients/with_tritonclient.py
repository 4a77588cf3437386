"""Rotate two tokens, and attend, with NVIDIA's client.

Run: python with_tritonclient.py [http://127.0.0.1:8000]
"""

import sys

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
EXPECTED = {
    "rotated": [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492],
    "out": [0, 1, 2, 3, 3.7503535, 4.7503535, 5.7503535, 6.7503535],
    "lse": [0.4375, 4.0019443],
}


def inputs(**arrays: np.ndarray) -> list[InferInput]:
    tensors = []
    for name, array in arrays.items():
        tensor = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensors.append(tensor.set_data_from_numpy(array))  # binary data
    return tensors


def outputs(*names: str) -> list[InferRequestedOutput]:
    return [InferRequestedOutput(name, binary_data=True) for name in names]


x = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4)  # [batch, sequence, heads, head_dim]
positions = np.array([[0, 1]])
to_rotate = inputs(q=x, positions=positions)
to_attend = inputs(q=x / 4, k=x / 4, v=x, positions=positions)
with InferenceServerClient(URL.removeprefix("http://")) as client:
    try:
        rotated = client.infer("rope", to_rotate, outputs=outputs("q"))
        attended = client.infer("rope_attention", to_attend, outputs=outputs("out", "lse"))
    except InferenceServerException as exc:
        sys.exit(str(exc))

results = {
    "rotated": rotated.as_numpy("q"),
    "out": attended.as_numpy("out"),
    "lse": attended.as_numpy("lse"),
}
for name, array in results.items():
    print(name, *array.ravel())
    if not np.allclose(array.ravel(), EXPECTED[name], atol=1e-5):
        sys.exit(f"these are not the numbers expected: {EXPECTED[name]}")
