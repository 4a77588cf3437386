"""One page of metrics from those of all replicas."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rope_ray.merge import merge
from rope_ray.utilization import utilization


def page(number: float) -> str:
    registry = CollectorRegistry()
    Gauge("rope_ready", "Whether it is ready.", registry=registry).set(number)
    Counter("rope_calls", "Calls.", ("route",), registry=registry).labels('/v1 "{x} ').inc(number)
    Histogram("rope_seconds", "Time.", registry=registry).observe(number)
    return generate_latest(registry).decode()


def samples(text: str) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
    return sorted(
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


def test_each_sample_has_its_replica_and_each_family_its_comments_once():
    pages = [("b", page(2)), ("a", page(1))]
    merged = merge(pages)
    expected = [
        (name, tuple(sorted((*labels, ("replica", replica)))), value)
        for replica, text in pages
        for name, labels, value in samples(text)
    ]
    assert samples(merged) == sorted(expected)
    comments = [line for line in merged.splitlines() if line.startswith("#")]
    assert comments == [line for line in page(1).splitlines() if line.startswith("#")]


def test_no_replica_is_an_empty_page():
    assert merge([]) == ""


def test_utilization_is_the_used_share_of_each_limit():
    registry = CollectorRegistry()
    for name, value in (
        ("rope_predicted_wait_seconds", 0.5),
        ("rope_predicted_wait_limit_seconds", 2),
        ("rope_admitted_bytes", 10),
        ("rope_admission_limit_bytes", 100),
    ):
        Gauge(name, "", registry=registry).set(value)
    assert utilization(registry) == {"queue": 0.25, "admission": 0.1, "kv": 0.0}
    kv_bytes = Gauge("rope_kv_bytes", "", ("kind",), registry=registry)
    kv_bytes.labels("reserved").set(30)
    kv_bytes.labels("free").set(10)
    assert utilization(registry)["kv"] == 0.75
