"""Messages to the application of a test, and its answers."""

import json
import re

import httpx

from service.wire import Codec, Message, Parameters
from tests.service.conftest import post

INTERNALS = re.compile(r"Traceback|File \"|/site-packages|torch\.|0x[0-9a-f]{6}|\.py")


def params(**values: object) -> Parameters:
    return Parameters.of(values)


def read_answer(codec: Codec, content: bytes) -> Message:
    """Read an answer; a list in JSON is no tensor, but a parameter."""
    if codec.media_type != "application/json":
        return codec.decode(content).message
    members = json.loads(content)
    tensors = {n: each for n, each in members.items() if isinstance(each, dict) and "data" in each}
    values = {name: each for name, each in members.items() if name not in tensors}
    return Message(codec.decode(params(**tensors).key).message.tensors, params(**values))


async def answered(
    client: httpx.AsyncClient, codec: Codec, path: str, message: Message, as_base64: bool = False
) -> Message:
    """Send a message, and return the answer: a 200 of the same media type."""
    response = await post(client, codec, path, message, as_base64)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == codec.media_type
    return read_answer(codec, response.content)


def warnings_of(message: Message) -> list[str]:
    return message.params.values.get("warnings", [])


def check_problem(response: httpx.Response, status: int, code: str, words: str) -> None:
    """The answer is a problem document of this status and code, whose detail has the words."""
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert words in problem["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:rope-service:problem:{code}"
    assert problem["status"] == status
    assert problem["error"] == problem["detail"]
    assert len(response.content) < 4096
    assert not INTERNALS.search(response.text)
