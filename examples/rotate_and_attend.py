"""Rotate, attend, and attend from one new token over cached keys, with rope_client.

pip install ./clients/python
rope-service serve &
python examples/rotate_and_attend.py
"""

import sys

import numpy as np

from rope_client import Client

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
ROPE = {"theta": 500_000.0}

# [batch, sequence, heads, head_dim]: 8 query heads, 2 key/value heads
rng = np.random.default_rng(0)
q = rng.normal(size=(1, 16, 8, 64)).astype(np.float32)
k, v = rng.normal(size=(2, 1, 16, 2, 64)).astype(np.float32)

with Client(URL) as client:
    rotated = client.rotate(q=q, k=k, rope=ROPE)
    print("rotated", rotated.q.shape, rotated.k.shape, "norms kept:", end=" ")
    print(np.allclose(np.linalg.norm(rotated.q, axis=-1), np.linalg.norm(q, axis=-1)))

    full = client.attention(q=q, k=k, v=v, rope=ROPE, return_lse=True)
    print("attended", full.out.shape, full.out.dtype, "lse", full.lse.shape)

    # cached keys are not rotated, so the service needs the position of the new query
    last = client.attention(q=q[:, -1:], k=k, v=v, q_positions=[15], rope=ROPE)
    print(
        "the last token alone gives the same result:",
        np.allclose(last.out, full.out[:, -1:], atol=1e-6),
    )
