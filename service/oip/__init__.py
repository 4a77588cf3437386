"""The Open Inference Protocol (KServe v2, with Triton's extensions) beside `/v1`: one engine."""
