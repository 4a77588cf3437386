"""Resolve the RoPE parameters of a model's config.json, and rotate a query with them.

`resolve_a_config.py [--url URL] [--layer N] [CONFIG.JSON]`; without a file, it uses a built-in one.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from rope_client import Client

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_attention_heads": 14,
    "max_position_embeddings": 131_072,
    "rope_theta": 1_000_000.0,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
}


def main() -> None:
    """Print what the service resolves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", nargs="?", type=Path)
    parser.add_argument("--layer", type=int)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()

    config = json.loads(args.config.read_text()) if args.config else CONFIG
    rope = {"config": config, "layer": args.layer}
    with Client(args.url) as client:
        resolved = client.resolve(rope=rope)
        for name in ("model_type", "layer_type", "parameters", "provenance", "keys_ignored"):
            print(f"{name}: {resolved.facts[name]}")
        for warning in resolved.warnings:
            print("warning:", warning)
        if resolved.inv_freq is None:
            print("this layer does not rotate:", resolved.facts["nope"])
            return

        print(
            "wavelengths:", np.array2string(2 * np.pi / resolved.inv_freq, precision=4, threshold=8)
        )
        if resolved.facts["num_axes"] > 1:
            print("positions have", resolved.facts["num_axes"], "axes: see /v1/positions")
            return
        q = np.random.default_rng(0).standard_normal((1, 4, 1, resolved.facts["rope"]["head_dim"]))
        positions = [0, 1, 1_000, 100_000]
        rotated = client.rotate(q=q.astype(np.float32), positions=positions, rope=rope).q
        print("norms before:", np.linalg.norm(q, axis=-1).ravel())
        print(
            f"norms at {positions}, attention scaling {resolved.facts['attention_scaling']:.4f}:",
            np.linalg.norm(rotated, axis=-1).ravel(),
        )


if __name__ == "__main__":
    main()
