"""Health check of the image: exit with 0 if the service of this container is ready, else with 1.

/readyz, not /healthz: healthy means ready for traffic. A service whose warm-up failed stays alive
and never becomes healthy; a drain ends before it counts as unhealthy. No urllib, which would use a
proxy of the environment.
"""

import http.client
import os
import ssl
import sys

TIMEOUT_S = 4


def is_ready(status_port: str, http_port: str, uses_tls: bool) -> bool:
    """Return whether the service of this host is ready.

    Args:
        status_port: port of `ROPE_STATUS_PORT`, which never has TLS; "": there is none.
        http_port: port of `ROPE_HTTP_PORT`.
        uses_tls: whether `http_port` has TLS. The certificate is not verified, because its name is
            not localhost.
    """
    connection: http.client.HTTPConnection
    if status_port or not uses_tls:
        port = int(status_port or http_port)
        connection = http.client.HTTPConnection("localhost", port, timeout=TIMEOUT_S)
    else:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        port = int(http_port)
        connection = http.client.HTTPSConnection(
            "localhost", port, timeout=TIMEOUT_S, context=context
        )
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException) as failure:
        print(failure, file=sys.stderr)  # noqa: T201 - docker inspect shows it
        return False


if __name__ == "__main__":
    get = os.environ.get
    ready = is_ready(
        get("ROPE_STATUS_PORT", ""), os.environ["ROPE_HTTP_PORT"], bool(get("ROPE_TLS_CERT_FILE"))
    )
    sys.exit(not ready)
