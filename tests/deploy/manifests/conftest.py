"""Collects no test of this folder where the tools of requirements.txt are not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("helm_python") else ["test_*.py"]
