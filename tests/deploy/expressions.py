"""Names of metrics and labels in expressions of Prometheus."""

import re
from collections.abc import Mapping, Set

NAME = re.compile(r"\b(?:rope|nv|process|python)_[a-z0-9_]+")
SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
BY = re.compile(r"\b(?:by|without) \(([^)]*)\)")

TARGET_LABELS = frozenset({"instance", "job"})
"""Labels that Prometheus adds to each sample."""


def unknown_names(
    expression: str, labels: Mapping[str, Set[str]], target_labels: Set[str] = TARGET_LABELS
) -> list[str]:
    """Return the metrics and labels of an expression that the service does not have.

    Args:
        expression: in PromQL.
        labels: of each metric that the service has.
        target_labels: labels that Prometheus adds to each sample when it scrapes.
    """
    # a name within quotes is the value of a label
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = NAME.findall(bare)
    found = [name for name in names if name not in labels]
    every = {"le"} | target_labels
    for name in names:
        every |= labels.get(name, set())
    for name, inside in SELECTOR.findall(bare):
        own = labels.get(name, set()) | target_labels
        if name.endswith("_bucket"):
            own |= {"le"}
        found += [f"{name}{{{label}}}" for label in LABEL.findall(inside) if label not in own]
    for group in BY.findall(bare):
        found += [label for label in group.replace(" ", "").split(",") if label not in every]
    return found
