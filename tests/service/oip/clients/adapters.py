"""One interface to the four clients of tritonclient, so that one suite tests all of them.

Every call waits for its response: asyncio clients run on an event loop of the adapter. Methods that
the adapter does not define are those of the client. Tensors are torch's, and messages of gRPC are
shown as JSON would show them.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from tests.service.oip.clients.forms import DATATYPES, array_of, plain, tensor_of, value_of
from tests.waiting import wait_until, wait_until_async

KINDS = ("http", "http.aio", "grpc", "grpc.aio")


@dataclass(frozen=True)
class Response:
    """The tensors of a response, and its other fields."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Client:
    """A client of one of the `KINDS`."""

    def __init__(self, kind: str, address: str, **options: Any) -> None:
        self._module = import_module(f"tritonclient.{kind}")
        self._address = address
        self._runner = asyncio.Runner()
        self.wire = kind.partition(".")[0]
        self.is_async = kind.endswith(".aio")
        if self.wire == "http" and not self.is_async:
            options = {"concurrency": 64} | options
        self._client = self._runner.run(self._open(options))

    async def _open(self, options: dict[str, Any]) -> Any:
        return self._module.InferenceServerClient(self._address, **options)

    def close(self) -> None:
        if self.is_async and self.wire == "http":
            self._runner.run(wait_until_async(self._is_idle))
        self._wait(self._client.close())
        self._runner.close()

    async def _is_idle(self) -> bool:
        """Return whether all responses are read to their end; an error is raised before that."""
        return not self._client._stub.connector._acquired

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: plain(self._wait(method(*args, **kwargs)))

    def _wait(self, result: Any) -> Any:
        return self._runner.run(result) if inspect.iscoroutine(result) else result

    def request(
        self,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[Any] | Mapping[str, bool] | None = None,
        in_json: Sequence[str] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of a request.

        Args:
            model: name of the model.
            inputs: tensors, or `InferInput` objects.
            outputs: names, or names and whether each is binary, or `InferRequestedOutput` objects.
            in_json: names of inputs that HTTP sends as JSON numbers.
            kwargs: other arguments of `infer`.
        """
        infer_inputs = [
            self.input(name, x, name not in in_json) if isinstance(x, Tensor) else x
            for name, x in inputs.items()
        ]
        if isinstance(outputs, Mapping):
            outputs = [self.output(name, binary) for name, binary in outputs.items()]
        elif outputs is not None:
            outputs = [self.output(o) if isinstance(o, str) else o for o in outputs]
        return {"model_name": model, "inputs": infer_inputs, "outputs": outputs, **kwargs}

    def input(self, name: str, x: Tensor, binary: bool = True) -> Any:
        """Return an `InferInput` of the client with data."""
        infer_input = self.empty_input(name, x)
        if self.wire == "http":
            return infer_input.set_data_from_numpy(array_of(x), binary_data=binary)
        return infer_input.set_data_from_numpy(array_of(x))

    def empty_input(self, name: str, x: Tensor) -> Any:
        """Return an `InferInput` of the client without data."""
        return self._module.InferInput(name, [*x.shape], DATATYPES[x.dtype])

    def output(self, name: str, binary: bool = True, **kwargs: Any) -> Any:
        """Return an `InferRequestedOutput` of the client."""
        if self.wire == "http":
            kwargs["binary_data"] = binary
        return self._module.InferRequestedOutput(name, **kwargs)

    def infer(self, *args: Any, **kwargs: Any) -> Response:
        """Send a request and return its response."""
        return response_of(self._wait(self._client.infer(**self.request(*args, **kwargs))))

    def infer_all(self, requests: Sequence[dict[str, Any]]) -> list[Response | Exception]:
        """Send all requests at once; return the response or the failure of each."""
        if self.is_async:
            results = self._runner.run(self._gather(requests))
        elif self.wire == "http":
            pending = [self._client.async_infer(**request) for request in requests]
            results = [_result(infer_request) for infer_request in pending]
        else:
            promises = [Promise() for _ in requests]
            for request, promise in zip(requests, promises, strict=True):
                self._client.async_infer(callback=promise, **request)
            results = [promise.wait() for promise in promises]
        return [_response_or_failure(result) for result in results]

    async def _gather(self, requests: Sequence[dict[str, Any]]) -> list[Any]:
        return await asyncio.gather(
            *(self._client.infer(**request) for request in requests), return_exceptions=True
        )

    def cancel(self, request: dict[str, Any], is_received: Callable[[], bool]) -> BaseException:
        """Send a request, cancel it when it is received, and return the client's exception."""
        if self.is_async:
            result = self._runner.run(self._cancel(request, is_received))
        elif self.wire == "http":  # this client can only time out
            with self._module.InferenceServerClient(self._address, network_timeout=0.05) as client:
                result = _result(client.async_infer(**request))
        else:
            promise = Promise()
            call = self._client.async_infer(callback=promise, **request)
            wait_until(is_received)
            call.cancel()
            result = promise.wait()
        assert isinstance(result, BaseException), "the service responded"
        return result

    async def _cancel(self, request: dict[str, Any], is_received: Callable[[], bool]) -> Any:
        task = asyncio.create_task(self._client.infer(**request))
        await asyncio.to_thread(wait_until, is_received)
        task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    def stream(
        self,
        requests: Sequence[dict[str, Any]],
        headers: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> list[Response | Exception]:
        """Send all requests on one stream; return responses and failures in order of arrival."""
        results: list[Any] = []
        if self.is_async:
            self._runner.run(self._stream(requests, headers, results))
        else:
            self._client.start_stream(
                lambda result, error: results.append(error or result), headers=headers
            )
            for request in requests:
                self._client.async_stream_infer(**request, **kwargs)
            self._client.stop_stream()
        return [_response_or_failure(result) for result in results]

    async def _stream(
        self,
        requests: Sequence[dict[str, Any]],
        headers: dict[str, str] | None,
        results: list[Any],
    ) -> None:
        async def copies() -> Any:
            for request in requests:
                yield dict(request)

        try:
            async for result, error in self._client.stream_infer(copies(), headers=headers):
                results.append(error or result)
        except Exception as failure:
            results.append(failure)


class Promise:
    """A callback that can be waited for."""

    def __init__(self) -> None:
        self._is_called = threading.Event()
        self._result: Any = None

    def __call__(self, result: Any, error: Exception | None) -> None:
        self._result = error or result
        self._is_called.set()

    def wait(self) -> Any:
        assert self._is_called.wait(60), "no response"
        return self._result


def _result(infer_request: Any) -> Any:
    try:
        return infer_request.get_result()
    except Exception as failure:
        return failure


def _response_or_failure(result: Any) -> Response | Exception:
    return result if isinstance(result, Exception) else response_of(result)


def response_of(result: Any) -> Response:
    """Return a result of any client as a `Response`."""
    header = plain(result.get_response())
    names = [output["name"] for output in header["outputs"]]
    tensors = {name: tensor_of(result.as_numpy(name)) for name in names if _has_data(result, name)}
    if "raw_output_contents" in header:
        assert len(header.pop("raw_output_contents")) == len(names)
        for item in (header, *header["outputs"]):
            item["parameters"] = {k: value_of(v) for k, v in item["parameters"].items()}
    return Response(tensors, header)


def _has_data(result: Any, name: str) -> bool:
    output = plain(result.get_output(name))
    return "shared_memory_region" not in output.get("parameters", {})
