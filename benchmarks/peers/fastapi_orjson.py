"""A FastAPI application with JSON that orjson reads and writes; no batching."""

import numpy as np
import orjson
import torch
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
    """Return `{"out": ...}` for `{"q": ..., "positions": ...}`, nested lists."""
    document = orjson.loads(await request.body())
    positions = torch.from_numpy(np.array([document.pop("positions")]))
    tensors = {
        name: torch.from_numpy(np.array(values, np.float32)) for name, values in document.items()
    }
    out = functions.compute(tensors | {"positions": positions})
    content = orjson.dumps({"out": out.numpy()}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


if __name__ == "__main__":
    functions.set_up()
    uvicorn.run(app, port=http_port(), log_level="warning", timeout_keep_alive=60)
