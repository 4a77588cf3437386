"""README.md of the chart, from values.yaml and its profiles."""

import json
from itertools import groupby

from tools.chart.paths import PROFILES
from tools.chart.values import read_values

HEAD = """# Helm chart rope-service

Made by `python -m tools.chart` from `values.yaml` and `profiles/`.

    helm upgrade --install rope-service deploy/helm/rope-service --namespace rope \\
        --create-namespace --values deploy/helm/rope-service/profiles/cpu.yaml \\
        --set image.repository=registry.example.com/rope-service --set image.tag=0.1.0

Helm then prints how to call the service, and `helm test rope-service --namespace rope` calls it.
The chart needs Kubernetes 1.29 or newer, and Helm 3.14 or newer, or 4. A value that the chart does
not know is refused with its name; values that cannot work together are refused with a sentence.
`docs/deploy/kubernetes.md` is the guide, and `docs/deploy.md` says how the service behaves.

`helm upgrade --reset-then-reuse-values` takes over the values of a release. `--reuse-values` alone
would miss those that a newer chart has added.

Sessions turned on or off replace the Deployment by a StatefulSet, or the reverse: requests are
refused until the new pods are ready. With sessions, each update ends those of the pods it replaces.

## Profiles

Files of values to start from; give several with `--values`, later ones win.

| file | |
|---|---|
"""


def render_readme() -> str:
    """Return README.md of the chart, with a table of all profiles and values."""
    profiles = [
        f"| `profiles/{path.name}` | {path.read_text().splitlines()[0].lstrip('# ')} |\n"
        for path in sorted(PROFILES.glob("*.yaml"))
    ]
    sections = []
    for section, values in groupby(read_values(), key=lambda value: value.section):
        rows = [
            f"| `{value.path}` | `{json.dumps(value.default)}` | {value.text} |\n"
            for value in values
        ]
        sections.append(f"\n### {section}\n\n| value | default | |\n|---|---|---|\n{''.join(rows)}")
    return HEAD + "".join(profiles) + "\n## Values\n" + "".join(sections)
