"""What the protocol tells of the service and of its models."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from service import __version__
from service.life import Life, Phase
from service.oip.errors import UnknownModel, describe, refusal
from service.oip.models import MODELS, VERSION, Model, Slot, model_of

EXTENSIONS = ["model_repository", "model_configuration", "binary_tensor_data", "parameters"]
LOADED = "models are loaded with the service, and neither loaded nor unloaded by requests"
NO_SHARED_MEMORY = "shared memory is not served here"


def add_control_routes(app: FastAPI, life: Life) -> None:
    """Add all routes of `/v2` that do not infer."""

    def ready(told: dict[str, Any]) -> JSONResponse:
        is_ready = life.phase is Phase.READY
        return JSONResponse(told | {"ready": is_ready}, 200 if is_ready else 503)

    @app.exception_handler(UnknownModel)
    async def unknown(_: Request, failure: UnknownModel) -> Response:
        status, headers, body = describe(failure)
        return _answer(status, headers, body)

    tags: Any = {"tags": ["Open Inference Protocol"]}

    @app.get("/v2", summary="Name, version and extensions of the service", **tags)
    async def server() -> dict[str, Any]:
        return {"name": "rope-service", "version": __version__, "extensions": EXTENSIONS}

    @app.get("/v2/health/live", summary="200 while the process can recover", **tags)
    async def live() -> JSONResponse:
        lives = life.phase not in (Phase.LOST, Phase.STUCK)
        return JSONResponse({"live": lives}, 200 if lives else 503)

    @app.get("/v2/health/ready", summary="200 when traffic is welcome, else 503", **tags)
    async def is_ready() -> JSONResponse:
        return ready({})

    for version in ("", "/versions/{version}"):
        path = "/v2/models/{name}" + version

        @app.get(path, summary="Inputs and outputs of a model", **tags)
        async def metadata(name: str, version: str = "") -> dict[str, Any]:
            return metadata_of(model_of(name, version))

        @app.get(path + "/ready", summary="200 when a model can be asked", **tags)
        async def model_ready(name: str, version: str = "") -> JSONResponse:
            return ready({"name": model_of(name, version).name})

        @app.get(path + "/config", summary="Configuration of a model, as Triton tells it", **tags)
        async def config(name: str, version: str = "") -> dict[str, Any]:
            return config_of(model_of(name, version))

        @app.post(path + "/infer", summary="Infer", **tags)
        async def nobody(name: str, version: str = "") -> None:
            model_of(name, version)  # those that exist never come here

    @app.post("/v2/repository/index", summary="All models", **tags)
    async def index() -> list[dict[str, str]]:
        state = "READY" if life.phase is Phase.READY else "UNAVAILABLE"
        return [{"name": name, "version": VERSION, "state": state} for name in MODELS]

    @app.post("/v2/repository/models/{name}/load", summary="Refused", **tags)
    @app.post("/v2/repository/models/{name}/unload", summary="Refused", **tags)
    async def control(name: str) -> Response:
        model_of(name)
        return _answer(503, *refusal(LOADED))

    for kind in ("systemsharedmemory", "cudasharedmemory"):

        @app.get(f"/v2/{kind}/status", summary="Regions: none", **tags)
        async def regions() -> list[Any]:
            return []

        @app.post(f"/v2/{kind}/unregister", summary="Done: there are none", **tags)
        async def unregister() -> Response:
            return Response()

        @app.post(f"/v2/{kind}/region/{{region}}/register", summary="Refused", **tags)
        async def register(region: str) -> Response:
            return _answer(501, *refusal(NO_SHARED_MEMORY))


def metadata_of(model: Model) -> dict[str, Any]:
    """Return the metadata of a model."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "rope-service",
        "inputs": [_described(slot) for slot in model.inputs],
        "outputs": [_described(slot) for slot in model.outputs],
    }


def config_of(model: Model) -> dict[str, Any]:
    """Return the configuration of a model: batches are a dimension that callers choose."""
    return {
        "name": model.name,
        "platform": "",
        "backend": "rope-service",
        "max_batch_size": 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_configured(slot) | {"optional": slot.optional} for slot in model.inputs],
        "output": [_configured(slot) for slot in model.outputs],
        "parameters": {},
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }


def _described(slot: Slot) -> dict[str, Any]:
    return {"name": slot.name, "datatype": slot.datatype, "shape": [*slot.dims]}


def _configured(slot: Slot) -> dict[str, Any]:
    return {"name": slot.name, "data_type": f"TYPE_{slot.datatype}", "dims": [*slot.dims]}


def _answer(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Response:
    response = Response(body, status)
    response.raw_headers = headers
    return response
