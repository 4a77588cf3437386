"""Settings of a replica: those of the environment, and what differs from one replica to another."""

import os
from typing import Any

from service.settings import Settings

PER_NODE = ("ROPE_UNIX_SOCKET", "ROPE_STATUS_PORT")
"""Settings that only one replica of a node could have."""


def replica_settings(owner: str, *, host: str | None, num_cpus: float) -> Settings:
    """Return the settings of a replica.

    Args:
        owner: name of the replica, which the ids of its sessions have.
        host: address of its own port; None: 127.0.0.1.
        num_cpus: CPUs that Ray gives to the replica.

    Raises:
        ValueError: a setting cannot be used with Ray.
    """
    for name in PER_NODE:
        if name in os.environ:
            raise ValueError(f"{name} is not for Ray: replicas of a node would share it")
    settings = Settings()
    own: dict[str, Any] = {"session_owner": owner, "http_port": 0}
    own["http_host"] = host or "127.0.0.1"
    if settings.threads is None:
        # a control group has all replicas of the node: its quota is not that of one
        own["threads"] = max(1, int(num_cpus))
    if settings.sessions == "on" and settings.keys_file is None:
        # the address of Ray's proxy is not known here, so it counts as reachable by others
        own["sessions"] = "off"
    return settings.model_copy(update=own)
