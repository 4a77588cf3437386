"""Parts of the rendered chart, and a server that stands in for a pod."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.deploy.manifests.render import Object, Values, of_kind, render


def workload(values: Values | None = None) -> Object:
    """Return the Deployment or StatefulSet of the service."""
    [found] = [
        each
        for each in of_kind(render(values), "Deployment", "StatefulSet")
        if not each["metadata"]["name"].endswith("-router")
    ]
    return found


def pod(values: Values | None = None) -> dict[str, Any]:
    return workload(values)["spec"]["template"]["spec"]


def container(values: Values | None = None) -> dict[str, Any]:
    return pod(values)["containers"][0]


def variables(values: Values | None = None) -> dict[str, Any]:
    """Return the environment by name: the value of each variable, or its `valueFrom`."""
    return {
        each["name"]: each["value"] if "value" in each else each["valueFrom"]
        for each in container(values)["env"]
    }


class StubPod(ThreadingHTTPServer):
    """Answers each request with its number; /readyz is 503 while `ready` is false."""

    daemon_threads = True

    def __init__(self, number, port):
        self.ready = True
        super().__init__(("127.0.0.1", port), _Handler)
        self.number = number
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # HAProxy closes the connections of its checks early

    def stop(self):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server: StubPod = self.server
        ready = server.ready or self.path != "/readyz"
        body = str(server.number).encode()
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass
