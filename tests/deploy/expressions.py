"""Names of metrics and labels in expressions of Prometheus."""

import re
from collections.abc import Mapping, Set

NAME = re.compile(r"\b(?:rope|nv|process|python)_[a-z0-9_]+")
SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
BY = re.compile(r"\b(?:by|without) \(([^)]*)\)")

OF_PROMETHEUS = frozenset({"instance", "job"})
"""Labels that Prometheus adds to each sample."""


def faults(
    expression: str, labels: Mapping[str, Set[str]], of_target: Set[str] = OF_PROMETHEUS
) -> list[str]:
    """Return what an expression names and the service does not have.

    Args:
        expression: of Prometheus.
        labels: of each metric.
        of_target: labels that are added to each sample when it is read.
    """
    # a name within quotes is the value of a label
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = NAME.findall(bare)
    found = [name for name in names if name not in labels]
    every = {"le"} | of_target
    for name in names:
        every |= labels.get(name, set())
    for name, inside in SELECTOR.findall(bare):
        own = labels.get(name, set()) | of_target
        if name.endswith("_bucket"):
            own |= {"le"}
        found += [f"{name}{{{label}}}" for label in LABEL.findall(inside) if label not in own]
    for group in BY.findall(bare):
        found += [label for label in group.replace(" ", "").split(",") if label not in every]
    return found
