"""Start a service, run a program, stop the service: `with_service.py PROGRAM ARGUMENT...`.

The program gets the argument `--url http://127.0.0.1:PORT`. The exit status is the program's.
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
    """Start the service, run the program, stop the service."""
    if not sys.argv[1:]:
        sys.exit(__doc__)
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    settings = {"ROPE_HTTP_PORT": str(port), "ROPE_GRPC_PORT": "0", "ROPE_LOG_LEVEL": "warning"}
    service = subprocess.Popen([sys.executable, "-m", "service"], env={**os.environ, **settings})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, service)
        return subprocess.run([*sys.argv[1:], "--url", url], check=False).returncode
    finally:
        service.send_signal(signal.SIGINT)  # SIGTERM waits for load balancers first
        service.wait()


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    """Return when the service is ready; exit if it has stopped or takes more than a minute."""
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
