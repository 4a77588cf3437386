"""Planned requests: those whose header was seen before, so that nothing of it is parsed again.

The header of a request and the description of its tensors determine a plan. With a plan, the bytes
of the tensors go from the socket into memory for the device, and from there back to the socket. All
else is as for other requests: the same queue, limits, deadlines, errors and metrics.

Requests without a plan are answered the ordinary way: over HTTP by the ASGI application, over gRPC
by a task for each RPC.
"""
