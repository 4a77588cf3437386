"""Settings of a replica: those of the environment, and what differs from one replica to another."""

import os
from typing import Any

from service.settings import Settings

PER_NODE = ("ROPE_UNIX_SOCKET", "ROPE_STATUS_PORT")
"""Settings that cannot be the same for two replicas of a node."""


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
        # all replicas of the node share a control group, so its quota is not that of one replica
        own["threads"] = max(1, int(num_cpus))
    if settings.sessions == "on" and settings.keys_file is None:
        # the replica does not know whether other machines reach Ray's proxy: assume that they do
        own["sessions"] = "off"
    return settings.model_copy(update=own)
