"""How much of its limits a replica uses, read from its metrics. Imports nothing of Ray."""

from prometheus_client import CollectorRegistry


def utilization(registry: CollectorRegistry) -> dict[str, float]:
    """Return the used share of each limit of a replica, 0 to 1."""

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(name, labels) or 0.0

    reserved = value("rope_kv_bytes", kind="reserved")
    return {
        "queue": _share(
            value("rope_predicted_wait_seconds"), value("rope_predicted_wait_limit_seconds")
        ),
        "admission": _share(value("rope_admitted_bytes"), value("rope_admission_limit_bytes")),
        "kv": _share(reserved, reserved + value("rope_kv_bytes", kind="free")),
    }


def _share(used: float, limit: float) -> float:
    return used / limit if limit else 0.0
