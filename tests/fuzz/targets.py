"""Properties of the parsers that hold for any bytes. A target raises if its property is broken."""

from collections.abc import Callable, Mapping
from contextlib import suppress

import orjson
from google.protobuf.message import DecodeError

from rope_core import RopeError
from service.asgi.request_body import ChunkedBody
from service.asgi.request_header import HeaderLimits, HeaderParser
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import ENDPOINTS
from service.errors import ServiceError
from service.oip.grpc import codec as grpc_codec
from service.oip.grpc.protobuf_wire import split_request
from service.oip.http import codec as http_codec
from service.oip.infer.models import MODELS
from service.oip.infer.parse import RequestParser
from service.oip.shm.registry import SharedMemoryRegistry
from service.planned import header as planned_header
from service.wire import Message, json_codec, safetensors_codec

Target = Callable[[bytes], None]

LIMITS = HeaderLimits(max_bytes=4096)
MODEL = MODELS["rope"]
ROTATE = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/rotate")
RESOLVE = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/resolve")


def request_header(data: bytes) -> None:
    """The result for a header is the same if its bytes arrive at once or one by one."""
    assert _parse_header([data]) == _parse_header([data[i : i + 1] for i in range(len(data))])


def planned_request_header(data: bytes) -> None:
    """The general parser accepts every header that may have a plan, with the same result."""
    bare = planned_header.without_identifiers(data)
    if bare is None:
        return
    header = planned_header.parse(bare[0], LIMITS)
    if header is not None:
        parsed = HeaderParser(LIMITS)
        assert parsed.feed(data, 0) == len(data)
        whole = parsed.result()
        assert whole is not None
        assert whole.content_length == header.num_body_bytes
        names = {name for name, _ in whole.fields}
        assert names == header.fields.keys() | bare[1].keys()


def chunked_body(data: bytes) -> None:
    """The result for a chunked body is the same if its bytes arrive at once or one by one."""
    pieces = [data[i : i + 1] for i in range(len(data))]
    assert _read_chunks([data]) == _read_chunks(pieces)


def safetensors(data: bytes) -> None:
    """A message is refused, or its tensors are not larger than the body."""
    with suppress(ServiceError):
        message, _ = safetensors_codec.decode(data)
        assert sum(tensor.nbytes for tensor in message.tensors.values()) <= len(data)
        _read(message)


def json_message(data: bytes) -> None:
    """JSON is parsed or refused with an error of the service."""
    with suppress(ServiceError):
        message, _ = json_codec.decode(data)
        _read(message)


def infer_json(data: bytes) -> None:
    """A JSON request of `/v2` is parsed or refused with an error of the service."""
    with suppress(ServiceError, RopeError):
        http_codec.decode(MODEL, _request_parser(), None, data)


def infer_binary(data: bytes) -> None:
    """A binary request of `/v2` is parsed or refused; its first byte is the length of its JSON."""
    with suppress(ServiceError, RopeError):
        http_codec.decode(MODEL, _request_parser(), data[0] if data else 0, data[1:])


def infer_grpc(data: bytes) -> None:
    """A gRPC message is parsed or refused with an error of the service."""
    with suppress(DecodeError, ServiceError, RopeError):
        grpc_codec.decode(MODEL, _request_parser(), grpc_codec.parse(split_request(data)))


def resolve(data: bytes) -> None:
    """Any config is resolved or refused."""
    with suppress(orjson.JSONDecodeError):
        config = orjson.loads(data)
        body = orjson.dumps({"rope": {"config": config}})
        with suppress(ServiceError, RopeError):
            RESOLVE.read(json_codec.decode(body).message, RESOLVER)


RESOLVER = RopeResolver({})

TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        *(request_header, planned_request_header, chunked_body, safetensors, json_message),
        *(infer_json, infer_binary, infer_grpc, resolve),
    )
}


def _parse_header(pieces: list[bytes]) -> object:
    parser = HeaderParser(LIMITS)
    num_parsed = 0
    for piece in pieces:
        try:
            num_parsed += parser.feed(piece, 0)
            header = parser.result()
        except ServiceError as failure:
            return type(failure)
        if header is not None:
            return header, num_parsed
    return None


def _read_chunks(pieces: list[bytes]) -> object:
    reader, body, num_read = ChunkedBody(), bytearray(), 0
    for piece in pieces:
        try:
            num_read += reader.feed(piece, 0, body)
        except ServiceError as failure:
            return type(failure), str(failure)
        if reader.is_complete:
            return num_read, body
    return body


def _read(message: Message) -> None:
    with suppress(ServiceError, RopeError):
        ROTATE.read(message, RESOLVER)


def _request_parser() -> RequestParser:
    return RequestParser(SharedMemoryRegistry(None), 2**28)
