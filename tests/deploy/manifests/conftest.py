"""Without the tools of requirements.txt nothing is collected here, so that `make test` passes."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("helm_python") else ["test_*.py"]
