"""Generated files of the Helm chart: run `python -m tools.chart` after a change of its source."""
