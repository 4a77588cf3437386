"""Metrics of the service, and the values of expressions by promtool."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests.render import ROOT
from tests.deploy.promtool import promtool

ROW = re.compile(r"\| `(\w+)` \| (\w+) \| ([^|]*) \|")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}


@cache
def service_metrics() -> dict[str, frozenset[str]]:
    """Return the labels of each metric, from the page that `make docs` makes of the service."""
    found = {}
    for name, kind, labels in ROW.findall((ROOT / "docs" / "metrics.md").read_text()):
        for suffix in SUFFIXES.get(kind, ("",)):
            found[name + suffix] = frozenset(re.findall(r"\w+", labels))
    return found


def evaluate(folder: Path, series: dict[str, str], expected: dict[str, float | None]) -> None:
    """Compare the values of expressions, four minutes after the first sample, with those expected.

    Args:
        folder: for the file of promtool.
        series: samples of each series, one every 15 seconds, in promtool's notation.
        expected: value of each expression, None if it must have no sample.
    """
    test: dict[str, Any] = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "4m",
                "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
            }
            for expression, value in expected.items()
        ],
    }
    path = folder / "expressions.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    promtool("test", "rules", path)
