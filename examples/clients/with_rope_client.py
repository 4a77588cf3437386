"""Rotate two tokens, and attend, with rope_client: python with_rope_client.py [http://127.0.0.1:8000]."""

import sys

import numpy as np

from rope_client import Client, RopeClientError

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
EXPECTED = {
    "rotated": [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492],
    "out": [0, 1, 2, 3, 3.7503535, 4.7503535, 5.7503535, 6.7503535],
    "lse": [0.4375, 4.0019443],
}

x = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4)  # [batch, sequence, heads, head_dim]
q, k, v = x / 4, x / 4, x
with Client(URL, timeout_s=5) as client:  # the deadline of a call, retries included
    try:
        rotated = client.rotate(x, positions=[0, 1]).q
        attended = client.attention(q, k, v, positions=[0, 1], return_lse=True)
    except RopeClientError as exc:
        sys.exit(str(exc))

for name, array in {"rotated": rotated, "out": attended.out, "lse": attended.lse}.items():
    print(name, *array.ravel())
    if not np.allclose(array.ravel(), EXPECTED[name], atol=1e-5):
        sys.exit(f"these are not the numbers expected: {EXPECTED[name]}")
