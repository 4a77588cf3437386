"""Write docs/alerts.md from the rules of Prometheus: `python -m docs.generate`."""

import re
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules.yaml"
SEVERITIES = ("critical", "warning")
PLACEHOLDER = re.compile(r"\{\{ *\$(?:labels\.(\w+)|value)[^}]*\}\}")
SETTING = re.compile(r"\b(ROPE_[A-Z_]+|rope_[a-z_]+)\b(?!`)")

HEAD = """# Alerts

Made by `make docs` from `deploy/prometheus/rules.yaml`, which Prometheus reads as it is: add it to
`rule_files`, and give the job the name `rope-service`. The Helm chart makes a PrometheusRule of the
same file. A test fires each alert with `promtool`.

`critical`: someone has to look now, because requests fail. `warning`: in working hours, before they
fail. An alert fires when its condition has held for the time of the column "for". *Instance*
is the replica; a value is written as *value*. What each metric means: [metrics.md](metrics.md).

HAProxy has [alerts of its own](deploy/replicas.md#what-to-alert-on). What to alert on of the
cluster: [Kubernetes](deploy/kubernetes.md#alert), [KServe](deploy/kserve.md#alert),
[Ray](deploy/ray.md#alerts).
"""

SECTIONS = {
    "critical": "## Requests fail: look now",
    "warning": "## A limit is near: look today",
}

COLUMNS = "| alert | for | what it means | first action |\n|---|---|---|---|\n"

CONDITIONS = """
## Conditions

Copy an expression into Prometheus to see the figures of an alert.

| alert | condition |
|---|---|
"""


def alerts() -> list[dict[str, Any]]:
    """Return all alerts of the rules, in the order of the file."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def alerts_page() -> str:
    """Return the text of docs/alerts.md."""
    rules = alerts()
    unknown = {rule["labels"]["severity"] for rule in rules} - {*SEVERITIES}
    if unknown:
        raise ValueError(f"an alert has a severity without a section: {unknown}")
    page = HEAD
    for severity in SEVERITIES:
        page += f"\n{SECTIONS[severity]}\n\n{COLUMNS}"
        page += "".join(_row(rule) for rule in rules if rule["labels"]["severity"] == severity)
    return page + CONDITIONS + "".join(map(_condition, rules))


def _row(rule: dict[str, Any]) -> str:
    notes = rule["annotations"]
    meaning, action = (_text(notes[name]) for name in ("summary", "description"))
    return f"| `{rule['alert']}` | {rule.get('for', '0m')} | {meaning} | {action} |\n"


def _text(annotation: str) -> str:
    filled = PLACEHOLDER.sub(lambda found: f"*{found[1] or 'value'}*", annotation)
    linked = filled.replace("(docs/settings.md)", "([settings](settings.md#exit-codes))")
    return SETTING.sub(r"`\1`", linked).replace("|", "&#124;")


def _condition(rule: dict[str, Any]) -> str:
    condition = rule["expr"].strip().replace("|", "\\|")
    return f"| `{rule['alert']}` | `{condition}` |\n"
