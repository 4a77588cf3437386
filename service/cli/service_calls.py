"""Calls of routes: in this process, or by HTTP with `--url`. The answers are the same."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import orjson
import torch
from torch import Tensor

from rope_core import Resolved, RopeConfig, RopeError, Rotate, Shift
from rope_core.inference import inference
from rope_core.rotary import run_rotate, shift
from service.asgi.problems import MAX_DETAIL
from service.cli.errors import InputError
from service.cli.http_client import HttpClient
from service.cli.preset_files import PRESETS_DIR
from service.endpoints.builders import PreparedCall
from service.endpoints.params import ResolveParams
from service.endpoints.presets import load_presets
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import ENDPOINTS, write
from service.errors import BadMessage, BadTensor, ServiceError, printable
from service.wire import Message, Parameters, json_codec, params_key, safetensors_codec
from service.wire.elements import DTYPES


class Caller(Protocol):
    """Something that answers requests of `/v1`."""

    def call(self, path: str, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Message:
        """Answer a request.

        Raises:
            InputError: the request is refused.
        """


def json_text(answer: Message) -> str:
    """Return the JSON that the route sends for an answer, as a line."""
    return b"".join(json_codec.encode(answer)).decode() + "\n"


@contextmanager
def open_caller(url: str | None) -> Iterator[Caller]:
    """Yield what answers requests: the service at `url`, or this process."""
    if url is None:
        yield InProcess()
        return
    with HttpClient(url) as client:
        yield OverHttp(client)


class InProcess:
    """Answers requests by the code of the routes, without a server."""

    def __init__(self) -> None:
        folder = os.environ.get(PRESETS_DIR)
        with _refusals():
            self._resolver = RopeResolver(load_presets(Path(folder) if folder else None))
        self._endpoints = {endpoint.path: endpoint for endpoint in ENDPOINTS}

    @inference
    def call(self, path: str, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Message:
        """See `Caller`."""
        with _refusals():
            message = _message(tensors, params)
            if self._endpoints[path].needs_worker:  # many small operations gain nothing by threads
                torch.set_num_threads(1)
            answer = self._endpoints[path].read(message, self._resolver)
            if not isinstance(answer, PreparedCall):
                return answer
            call = answer.call
            assert isinstance(call, Rotate | Shift), "no command runs another call"
            result = run_rotate(call) if isinstance(call, Rotate) else shift(call)
            return write(result, answer)

    def resolve(self, rope: Mapping[str, Any] | str) -> Resolved | RopeConfig:
        """Return the library's value for a rope, for figures.

        Raises:
            InputError: the rope is refused, or does not rotate.
        """
        with _refusals():
            params = ResolveParams.model_validate({"rope": rope})
            found = self._resolver.resolve(params.rope, None, None)
            return found.rope if found.model is None else replace(found.model, rope=found.rope)


class OverHttp:
    """Sends requests to a service."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def call(self, path: str, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Message:
        """See `Caller`."""
        with _refusals():
            body = b"".join(safetensors_codec.encode(_message(tensors, params)))
        answer = self._client.post(path, body, safetensors_codec.media_type)
        try:
            return safetensors_codec.decode(answer).message
        except ServiceError as error:
            text = f"what {path} sent is no answer of a rope-service: "
            raise InputError(text + printable(error, MAX_DETAIL)) from None


def _message(tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Message:
    """Return a request.

    Raises:
        BadTensor: no message has tensors of the dtype.
        BadMessage: the parameters are nested too deep.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise BadTensor(f"dtype of {name}", f"one of {', '.join(DTYPES)}", tensor.dtype)
    try:
        return Message(tensors, Parameters(params, params_key(params)))
    except orjson.JSONEncodeError:
        raise BadMessage(json_codec.TOO_DEEP) from None


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise InputError with the text that the service has for an error."""
    try:
        yield
    except (RopeError, ServiceError) as error:
        raise InputError(printable(error, MAX_DETAIL)) from None
