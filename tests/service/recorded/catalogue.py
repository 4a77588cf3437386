"""The requests that are recorded: cases of one or more exchanges, each case on its own."""

from collections.abc import Iterator

from tests.service.recorded import bad_requests, grpc_requests, v1_requests, v2_requests
from tests.service.recorded.http_requests import Case


def all_cases() -> Iterator[Case]:
    """Yield every case; names are unique."""
    for requests in (v1_requests, v2_requests, bad_requests, grpc_requests):
        yield from requests.cases()
