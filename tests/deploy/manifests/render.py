"""Renders the chart with Helm's own engine, offline.

python -m tests.deploy.manifests.render deploy/helm/rope-service/profiles/cpu.yaml
python -m tests.deploy.manifests.render FILE... --set image.tag=v2 --name rope
"""

import argparse
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "rope-service"
PROFILES = CHART / "profiles"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser in C takes a tenth of the time."""

Object = dict[str, Any]
Values = dict[str, Any]


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def profiles() -> list[str]:
    """Return the names of the chart's profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def profile(name: str) -> Values:
    """Return the values of a profile."""
    return yaml.safe_load((PROFILES / f"{name}.yaml").read_text()) or {}


def merge(*layers: Values) -> Values:
    """Return the values of several files as Helm merges them: later ones win, also whole lists."""
    merged: Values = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def render(
    values: Values | None = None, name: str = "rope", namespace: str = "rope"
) -> list[Object]:
    """Return all objects that the chart makes of some values, in the order of their files.

    Raises:
        helm_python.HelmError: for values that the schema or a template refuses.
    """
    chart().validate_schema(chart().merge_values(values))
    files = chart().render(values, name=name, namespace=namespace)
    return [
        document
        for path, text in sorted(files.items())
        if path.endswith((".yaml", ".yml"))
        for document in yaml.load_all(text, Loader=LOADER)
        if document
    ]


@cache
def _rendered(name: str) -> str:
    return json.dumps(render(profile(name)))


def rendered(name: str) -> list[Object]:
    """Return a copy of the objects of a profile, which is rendered once for all tests."""
    return json.loads(_rendered(name))


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def refusal(values: Values) -> str:
    """Return the message with which the chart refuses values, "" if it accepts them."""
    try:
        render(values)
    except helm_python.HelmError as error:
        return str(error)
    return ""


class _Dumper(yaml.SafeDumper):
    """Writes strings of several lines as blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(objects: list[Object]) -> str:
    """Return objects as readable YAML."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the chart.")
    parser.add_argument("files", nargs="*", type=Path, help="files of values; later ones win")
    parser.add_argument("--set", action="append", default=[], help="name.of.value=value")
    parser.add_argument("--name", default="rope", help="name of the release")
    parser.add_argument("--namespace", default="rope")
    parser.add_argument("--kind", action="append", default=[], help="print only this kind")
    options = parser.parse_args()
    layers = [yaml.safe_load(path.read_text()) or {} for path in options.files]
    layers += [helm_python.parse_set_string(each) for each in options.set]
    try:
        objects = render(merge(*layers), options.name, options.namespace)
    except helm_python.HelmError as error:
        sys.exit(f"refused: {error}")
    if options.kind:
        objects = of_kind(objects, *options.kind)
    sys.stdout.write(dump(objects))


if __name__ == "__main__":
    main()
