"""How full a replica is, read from its metrics. Imports nothing of Ray."""

from prometheus_client import CollectorRegistry


def fullness(registry: CollectorRegistry) -> dict[str, float]:
    """Return each limited thing of a replica as a part of its limit, 0 to 1."""

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(name, labels) or 0.0

    reserved = value("rope_kv_bytes", kind="reserved")
    return {
        "queue": _part(
            value("rope_predicted_wait_seconds"), value("rope_predicted_wait_limit_seconds")
        ),
        "admission": _part(value("rope_admitted_bytes"), value("rope_admission_limit_bytes")),
        "kv": _part(reserved, reserved + value("rope_kv_bytes", kind="free")),
    }


def _part(used: float, limit: float) -> float:
    return used / limit if limit else 0.0
