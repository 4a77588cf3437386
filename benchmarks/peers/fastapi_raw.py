"""A FastAPI application with raw bytes, as most people write it; no batching."""

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers import functions
from benchmarks.peers.arguments import http_port

app = FastAPI()


@app.get("/readyz")
async def ready() -> str:
    """Tell that the server accepts requests."""
    return "ready"


@app.post("/compute")
async def compute(request: Request) -> Response:
    """Return the bytes of the output."""
    out = functions.compute(functions.read_raw(await request.body()))
    return Response(out.numpy().tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    functions.set_up()
    uvicorn.run(app, port=http_port(), log_level="warning", timeout_keep_alive=60)
