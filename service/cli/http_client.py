"""Requests to a service, for `--url`."""

import json
import os
from typing import Self

import httpx

from service.cli.errors import InputError
from service.errors import printable

API_KEY = "ROPE_API_KEY"
"""Variable with the API key that requests have."""

TIMEOUT_S = 300.0
"""Time without an answer after which a service counts as unreachable."""

MAX_TEXT = 256
"""Characters of an answer that is no problem document, in an error."""


class HttpClient:
    """Sends requests to the service at an address, within `with`."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        headers = {}
        if key := os.environ.get(API_KEY, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise InputError(f"{API_KEY} must have printable characters of ASCII only")
            headers["authorization"] = f"Bearer {key}"
        if not url.startswith(("http://", "https://")):
            expected = "an address that begins with http:// or https://"
            raise InputError(f"--url must be {expected}, got {printable(url)}")
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError(f"--url must be an address: {printable(error, MAX_TEXT)}") from None
        except OSError as error:
            text = "cannot read the certificates that SSL_CERT_FILE or SSL_CERT_DIR names"
            raise InputError(f"{text}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def get(self, path: str) -> bytes:
        """Return the JSON that answers a GET.

        Raises:
            InputError: the service refuses it, or cannot be reached.
        """
        body = self._answer(self._client.build_request("GET", path))
        try:
            json.loads(body)
        except ValueError:
            raise InputError(f"what {path} sent is no answer of a rope-service") from None
        return body

    def post(self, path: str, body: bytes, content_type: str) -> bytes:
        """Return the answer to a POST.

        Raises:
            InputError: as `get`.
        """
        headers = {"content-type": content_type}
        return self._answer(self._client.build_request("POST", path, content=body, headers=headers))

    def _answer(self, request: httpx.Request) -> bytes:
        try:
            response = self._client.send(request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = f"cannot reach the service at {self._url}: {printable(error, MAX_TEXT)}"
            raise InputError(text) from None
        if response.is_success:
            return response.content
        raise InputError(_problem(response))


def _problem(response: httpx.Response) -> str:
    """Return why a request failed: the detail of the problem document."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text
    code = response.status_code
    if code == httpx.codes.UNAUTHORIZED:
        return f"{printable(detail, MAX_TEXT)}; set {API_KEY} to the API key"
    if response.is_client_error and code != httpx.codes.NOT_FOUND:
        return printable(detail, 1024)  # the sentence of the route
    return f"the service answered {code}: {printable(detail, MAX_TEXT)}"
