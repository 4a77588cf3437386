"""Inference as HTTP and gRPC share it: parse a request, plan it, run it, render the outputs."""
