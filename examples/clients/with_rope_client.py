"""Rotate two tokens with rope_client: python with_rope_client.py [http://127.0.0.1:8000]."""

import sys

import numpy as np

from rope_client import Client, RopeClientError

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
EXPECTED = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]

q = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4)  # [batch, sequence, heads, head_dim]
with Client(URL) as client:
    try:
        rotated = client.rotate(q=q, positions=[0, 1]).q
    except RopeClientError as exc:
        sys.exit(str(exc))

print("rotated", *rotated.ravel())
if not np.allclose(rotated.ravel(), EXPECTED, atol=1e-5):
    sys.exit(f"these are not the numbers expected: {EXPECTED}")
