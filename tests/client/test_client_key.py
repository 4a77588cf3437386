"""The client sends its key in the header Authorization, and never shows the key in a text."""

import httpx
import pytest

from rope_client.transport import key_header
from tests.client.test_client_calls import Q, echo


@pytest.mark.parametrize(
    ("api_key", "field"),
    [("rope_secret", "Bearer rope_secret"), ("from-a-file\n", "Bearer from-a-file"), (None, None)],
)
async def test_each_request_has_the_key(connect, api_key, field):
    fields = []

    def server(request: httpx.Request) -> httpx.Response:
        fields.append(request.headers.get("authorization"))
        return echo(request)

    ask = connect(server, api_key=api_key)
    for _ in range(2):
        await ask("rotate", q=Q)
    assert fields == [field] * 2


@pytest.mark.parametrize("api_key", ["", " ", "two\nlines", "schlüssel", "nul\0"])
def test_a_key_with_other_characters_is_refused(api_key):
    with pytest.raises(ValueError, match="api_key must be") as raised:
        key_header(api_key)
    assert api_key.strip() == "" or api_key not in str(raised.value)
