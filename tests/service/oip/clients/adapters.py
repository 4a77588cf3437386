"""The four clients of tritonclient behind one face, so that one suite asks with each.

All wait for their answers: those of asyncio run on a loop of their own. A method that is not here
is the client's own. Tensors are torch's on this side, and answers of gRPC become what JSON has.
"""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from tests.service.oip.clients.forms import DATATYPES, array_of, plain, tensor_of, value_of

KINDS = ("http", "http.aio", "grpc", "grpc.aio")


@dataclass(frozen=True)
class Completed:
    """What a request gets."""

    tensors: dict[str, Tensor]
    head: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Client:
    """One of the four."""

    def __init__(self, kind: str, address: str, **options: Any) -> None:
        self._module = import_module(f"tritonclient.{kind}")
        self._address = address
        self._runner = asyncio.Runner()
        self.wire = kind.partition(".")[0]
        self.is_async = kind.endswith(".aio")
        if self.wire == "http" and not self.is_async:
            options = {"concurrency": 64} | options
        self._detach_small = self._runner.run(self._made(options))

    async def _made(self, options: dict[str, Any]) -> Any:
        return self._module.InferenceServerClient(self._address, **options)

    def close(self) -> None:
        self._runner.run(asyncio.sleep(0.001))  # what answers left to be done
        self._wait(self._detach_small.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._detach_small, name)
        return lambda *args, **named: plain(self._wait(method(*args, **named)))

    def _wait(self, given: Any) -> Any:
        return self._runner.run(given) if inspect.iscoroutine(given) else given

    def ask(
        self,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[Any] | Mapping[str, bool] | None = None,
        in_json: Sequence[str] = (),
        **more: Any,
    ) -> dict[str, Any]:
        """Return the arguments of a request.

        Args:
            model: whom it asks.
            inputs: tensors, or inputs of the client's own.
            outputs: names, or names and whether each is binary, or outputs of the client's own.
            in_json: inputs that travel as numbers, where the wire has such.
            more: further arguments.
        """
        given = [
            self.input(name, x, name not in in_json) if isinstance(x, Tensor) else x
            for name, x in inputs.items()
        ]
        if isinstance(outputs, Mapping):
            outputs = [self.output(name, binary) for name, binary in outputs.items()]
        elif outputs is not None:
            outputs = [self.output(o) if isinstance(o, str) else o for o in outputs]
        return {"model_name": model, "inputs": given, "outputs": outputs, **more}

    def input(self, name: str, x: Tensor, binary: bool = True) -> Any:
        """Return an input of the client's own."""
        made = self.empty_input(name, x)
        if self.wire == "http":
            return made.set_data_from_numpy(array_of(x), binary_data=binary)
        return made.set_data_from_numpy(array_of(x))

    def empty_input(self, name: str, x: Tensor) -> Any:
        """Return an input that has no data yet."""
        return self._module.InferInput(name, [*x.shape], DATATYPES[x.dtype])

    def output(self, name: str, binary: bool = True, **more: Any) -> Any:
        """Return an output of the client's own."""
        named = more | ({"binary_data": binary} if self.wire == "http" else {})
        return self._module.InferRequestedOutput(name, **named)

    def infer(self, *args: Any, **named: Any) -> Completed:
        """Ask, and wait for the answer."""
        return answer_of(self._wait(self._detach_small.infer(**self.ask(*args, **named))))

    def together(self, asks: Sequence[dict[str, Any]]) -> list[Completed | Exception]:
        """Ask all at once; each gets an answer, or what is wrong with it."""
        if self.is_async:
            found = self._runner.run(self._gather(asks))
        elif self.wire == "http":
            found = [
                _result(each) for each in [self._detach_small.async_infer(**ask) for ask in asks]
            ]
        else:
            waiting = [Promise() for _ in asks]
            for ask, promise in zip(asks, waiting, strict=True):
                self._detach_small.async_infer(callback=promise, **ask)
            found = [promise.wait() for promise in waiting]
        return [each if isinstance(each, Exception) else answer_of(each) for each in found]

    async def _gather(self, asks: Sequence[dict[str, Any]]) -> list[Any]:
        return await asyncio.gather(
            *(self._detach_small.infer(**ask) for ask in asks), return_exceptions=True
        )

    def leave(self, ask: dict[str, Any], came: Callable[[], bool]) -> BaseException:
        """Ask, give up once the request came, and return how the client tells."""
        if self.is_async:
            left = self._runner.run(self._left(ask, came))
        elif self.wire == "http":  # nothing but time makes it give up
            with self._module.InferenceServerClient(self._address, network_timeout=0.05) as own:
                left = _result(own.async_infer(**ask))
        else:
            promise = Promise()
            call = self._detach_small.async_infer(callback=promise, **ask)
            _until(came)
            call.cancel()
            left = promise.wait()
        assert isinstance(left, BaseException), "it was answered"  # or cancelled
        return left

    async def _left(self, ask: dict[str, Any], came: Callable[[], bool]) -> Any:
        task = asyncio.create_task(self._detach_small.infer(**ask))
        await asyncio.to_thread(_until, came)
        task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    def stream(
        self, asks: Sequence[dict[str, Any]], headers: dict[str, str] | None = None, **more: Any
    ) -> list[Completed | Exception]:
        """Ask all on one stream; return what comes, in the order it comes."""
        found: list[Any] = []
        if self.is_async:
            self._runner.run(self._streamed(asks, headers, found))
        else:
            self._detach_small.start_stream(
                lambda result, error: found.append(error or result), headers=headers
            )
            for ask in asks:
                self._detach_small.async_stream_infer(**ask, **more)
            self._detach_small.stop_stream()
        return [each if isinstance(each, Exception) else answer_of(each) for each in found]

    async def _streamed(
        self, asks: Sequence[dict[str, Any]], headers: dict[str, str] | None, found: list[Any]
    ) -> None:
        async def given() -> Any:
            for ask in asks:
                yield dict(ask)

        try:
            async for result, error in self._detach_small.stream_infer(given(), headers=headers):
                found.append(error or result)
        except Exception as failure:
            found.append(failure)


class Promise:
    """A callback that can be waited for."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._told: Any = None

    def __call__(self, result: Any, error: Exception | None) -> None:
        self._told = error or result
        self.event.set()

    def wait(self) -> Any:
        assert self.event.wait(60), "no answer"
        return self._told


def _until(came: Callable[[], bool]) -> None:
    abort_pending = time.monotonic() + 10
    while not came() and time.monotonic() < abort_pending:
        time.sleep(0.005)


def _result(request: Any) -> Any:
    try:
        return request.get_result()
    except Exception as failure:
        return failure


def answer_of(result: Any) -> Completed:
    """Return an answer in one form, by `as_numpy` of the client."""
    head = plain(result.get_response())
    names = [output["name"] for output in head["outputs"]]
    found = {name: tensor_of(result.as_numpy(name)) for name in names if _has_data(result, name)}
    if "raw_output_contents" in head:
        assert len(head.pop("raw_output_contents")) == len(names)
        head["parameters"] = {k: value_of(v) for k, v in head["parameters"].items()}
        for output in head["outputs"]:
            output["parameters"] = {k: value_of(v) for k, v in output["parameters"].items()}
    return Completed(found, head)


def _has_data(result: Any, name: str) -> bool:
    output = plain(result.get_output(name))
    return "shared_memory_region" not in output.get("parameters", {})
