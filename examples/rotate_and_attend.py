"""Rotate, attend, and generate one token over a cache, with the client.

python -m service &
python examples/rotate_and_attend.py
"""

import sys

import numpy as np

from rope_client import Client

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
ROPE = {"theta": 500_000.0}

# [batch, sequence, heads, head_dim]: 8 query heads share 2 heads of keys and values
rng = np.random.default_rng(0)
q = rng.normal(size=(1, 16, 8, 64)).astype(np.float32)
k, v = rng.normal(size=(2, 1, 16, 2, 64)).astype(np.float32)

with Client(URL) as client:
    rotated = client.rotate(q=q, k=k, rope=ROPE)
    print("rotated", rotated.q.shape, rotated.k.shape, "norms kept:", end=" ")
    print(np.allclose(np.linalg.norm(rotated.q, axis=-1), np.linalg.norm(q, axis=-1)))

    whole = client.attention(q=q, k=k, v=v, rope=ROPE, return_lse=True)
    print("attended", whole.out.shape, whole.out.dtype, "lse", whole.lse.shape)

    # the keys of the cache are not rotated, so the service is told where the new query stands
    last = client.attention(q=q[:, -1:], k=k, v=v, q_positions=[15], rope=ROPE)
    print("the last token alone is the same:", np.allclose(last.out, whole.out[:, -1:], atol=1e-6))
