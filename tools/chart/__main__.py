"""Write the generated files of the chart: `python -m tools.chart`.

- README.md, from the comments of values.yaml
- `settings` and `variable` in values.schema.json, from service/settings.py
- `required` in values.schema.json, from values.yaml
"""

from tools.chart.paths import README, SCHEMA
from tools.chart.readme import render_readme
from tools.chart.settings import render_schema


def main() -> None:
    """Write both files."""
    SCHEMA.write_text(render_schema())
    README.write_text(render_readme())


if __name__ == "__main__":
    main()
