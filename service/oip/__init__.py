"""The Open Inference Protocol (KServe v2, with Triton's extensions), by the engine of `/v1`."""
