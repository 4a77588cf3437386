"""A Ray cluster for one test, on 127.0.0.1: it deploys the service and names its replicas."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "deploy" / "ray"

HEAD = """
import sys, ray
ray.init(address="local", num_cpus=4, num_gpus=0, include_dashboard=True,
         dashboard_host="127.0.0.1", dashboard_port=int(sys.argv[1]), log_to_driver=False,
         object_store_memory=128 * 2**20, _node_ip_address="127.0.0.1", _temp_dir=sys.argv[2])
print("up", flush=True)
sys.stdin.read()
ray.shutdown()
"""
"""The head of the cluster, which ends when its standard input is closed. `ray start` would use the
address of the host, and not 127.0.0.1."""

START_S = 180.0


def wait_for(event: str, condition: Callable[[], Any]) -> None:
    """Return when a condition holds; end the process with an error after `START_S`."""
    try:
        wait_until(condition, START_S, interval_s=0.2)
    except TimeoutError:
        raise SystemExit(f"{event}: not within {START_S:.0f} s") from None


class Cluster:
    """A running cluster."""

    def __init__(self, dashboard: str, http_port: int, folder: Path) -> None:
        self._dashboard = dashboard
        self._http_port = http_port
        self._folder = folder
        self.url = f"http://127.0.0.1:{http_port}"

    def deploy(
        self,
        *,
        env: dict[str, str] | None = None,
        args: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Deploy cpu.yaml by `serve deploy`, changed for this test, and wait until it runs."""
        config = yaml.safe_load((CONFIGS / "cpu.yaml").read_text())
        config["http_options"]["port"] = self._http_port
        rope = config["applications"][0]
        rope["runtime_env"]["env_vars"] |= env or {}
        rope["args"] |= args or {}
        rope["deployments"][0] |= options
        rope["deployments"][0]["ray_actor_options"]["num_cpus"] = 0.5
        for name in [name for name, value in options.items() if value is None]:
            del rope["deployments"][0][name]
        path = self._folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        serve = Path(sys.executable).with_name("serve")
        subprocess.run([serve, "deploy", "-a", self._dashboard, path], check=True, text=True,
                       capture_output=True)  # fmt: skip
        number = options.get("num_replicas")
        wait_for("the deployment", lambda: self._runs(number))

    def replicas(self) -> dict[str, int]:
        """Return the process of each running replica of the service."""
        deployment = self._details()["applications"]["rope"]["deployments"]["Rope"]
        return {
            each["replica_id"]: each["pid"]
            for each in deployment["replicas"]
            if each["state"] == "RUNNING"
        }

    def _runs(self, number: int | None) -> bool:
        applications = self._details()["applications"]
        states = [each["status"] for each in applications.values()]
        if "DEPLOY_FAILED" in states:
            raise SystemExit(f"deployment failed: {applications['rope']['message']}")
        return (
            len(states) == 2
            and set(states) == {"RUNNING"}
            and (number is None or len(self.replicas()) == number)
        )

    def _details(self) -> dict[str, Any]:
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        details: dict[str, Any] = ServeSubmissionClient(self._dashboard).get_serve_details()
        return details


@contextmanager
def cluster(dashboard_port: int, http_port: int) -> Iterator[Cluster]:
    """Start a cluster, and end it."""
    with tempfile.TemporaryDirectory(
        prefix="ray",
        dir="/tmp",
        ignore_cleanup_errors=True,  # Ray still writes its logs
    ) as folder:  # Ray's paths must be short
        os.environ.update(
            HOME=folder,  # Ray writes the token of the cluster there
            RAY_AUTH_MODE="token",
            RAY_USAGE_STATS_ENABLED="0",
            OMP_NUM_THREADS="1",
            PYTHONPATH=f"{ROOT}:{CONFIGS}:{ROOT / 'clients' / 'python'}",
        )
        command = [sys.executable, "-c", HEAD, str(dashboard_port), f"{folder}/t"]
        with (
            Path(folder, "log").open("w") as log,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            ) as head,
        ):
            assert head.stdin is not None
            assert head.stdout is not None
            try:
                if head.stdout.readline() != "up\n":
                    raise SystemExit(Path(folder, "log").read_text())
                yield Cluster(f"http://127.0.0.1:{dashboard_port}", http_port, Path(folder))
            finally:
                head.stdin.close()
                head.wait(60)
