"""Files of the chart."""

from pathlib import Path

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "rope-service"
VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
PROFILES = CHART / "profiles"
