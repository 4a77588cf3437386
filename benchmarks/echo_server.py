"""Minimal servers that echo what they get: uvicorn over HTTP and WebSocket, and grpc.aio."""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import uvicorn
import uvloop

METHOD = "inference.GRPCInferenceService", "ModelInfer"
"""Service and method that the gRPC server implements."""


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Echo the body over HTTP, and the messages of a WebSocket."""
    if scope["type"] == "websocket":
        await _echo_messages(scope, receive, send)
        return
    chunks = []
    more_body = True
    while more_body:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        chunks.append(event["body"])
        more_body = event["more_body"]
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def _echo_messages(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Echo the first bytes of each message: as many as the query says, all without one."""
    size = int(scope["query_string"] or 2**30)
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event["bytes"][:size]})


async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
    """Echo the message over gRPC."""
    return request


async def serve(http_port: int, grpc_port: int | None) -> None:
    """Serve until a signal arrives."""
    if grpc_port is not None:
        service, method = METHOD
        methods = {method: grpc.unary_unary_rpc_method_handler(echo)}
        handler = grpc.method_handlers_generic_handler(service, methods)
        server = grpc.aio.server(handlers=[handler], options=[("grpc.max_send_message_length", -1)])
        server.add_insecure_port(f"127.0.0.1:{grpc_port}")
        await server.start()
    config = uvicorn.Config(
        app,
        port=http_port,
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=2**30,
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=60,  # uvicorn counts while a large response is on its way
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, help="no gRPC server by default")
    args = parser.parse_args()
    uvloop.run(serve(args.http_port, args.grpc_port))


if __name__ == "__main__":
    main()
