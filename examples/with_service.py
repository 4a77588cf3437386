"""Run a program beside a service of its own: `with_service.py PROGRAM ARGUMENT...`.

The program is given `--url http://127.0.0.1:PORT`, and its exit status is passed on.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


def main() -> int:
    """Start the service, run the program, end the service."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"ROPE_HTTP_PORT": str(port), "ROPE_GRPC_PORT": "0", "ROPE_LOG_LEVEL": "warning"}
    service = subprocess.Popen([sys.executable, "-m", "service"], env={**os.environ, **settings})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, service)
        return subprocess.run([*sys.argv[1:], "--url", url], check=False).returncode
    finally:
        service.send_signal(signal.SIGINT)  # SIGTERM would first wait for load balancers
        service.wait()


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    """Return once the service answers; exit where it has ended or takes longer than a minute."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/readyz"):
                return
        except urllib.error.URLError:
            if service.poll() is not None:
                break
            time.sleep(0.2)
    raise SystemExit("the service did not start")


if __name__ == "__main__":
    sys.exit(main())
