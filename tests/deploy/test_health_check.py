"""The health check of the image, against servers that answer /readyz."""

import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.free_ports import free_ports
from tests.service.certificates import Authority

SCRIPT = Path(__file__).parents[2] / "deploy" / "health_check.py"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("has_status_port", [False, True], ids=["one port", "status port"])
def test_health_check_requests_readiness(tmp_path, tls, has_status_port):
    """The other port of a service with a status port does not listen here."""
    paths = []

    class Service(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(503 if len(paths) == 1 else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    files = Authority(tmp_path).issue("other-name")
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        if tls and not has_status_port:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        port, (other,) = str(server.server_port), free_ports(1)
        variables = {"ROPE_HTTP_PORT": port}
        if has_status_port:
            variables = {"ROPE_HTTP_PORT": str(other), "ROPE_STATUS_PORT": port}
        if tls:
            variables["ROPE_TLS_CERT_FILE"] = str(files.certificate)
        environment = {n: v for n, v in os.environ.items() if not n.startswith("ROPE_")} | variables

        def check() -> int:
            command = [sys.executable, SCRIPT]
            return subprocess.run(command, env=environment, capture_output=True).returncode

        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert (check(), check()) == (1, 0)
        server.shutdown()
        thread.join()
        server.server_close()
        assert check() == 1, "nobody listens"
    assert paths == ["/readyz"] * 2
