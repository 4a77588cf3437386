"""Requests by the service's own OpenAPI document: each answer is one that the document names."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import Serve

CONFIG = Path(__file__).parent / "schemathesis.toml"

# A schema cannot say all that makes a request valid: sizes of tensors, for example, depend on each
# other. So whether a request is accepted is not compared with the schema.
EXCLUDED_CHECKS = "positive_data_acceptance,negative_data_rejection"


def main(seconds: str) -> None:
    """Fuzz a service that is started for it; exit with schemathesis's status."""
    with TemporaryDirectory() as folder, Serve(Path(folder))(ROPE_LOG_LEVEL="error") as (url, _):
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        command += ["--max-time", seconds, "--phases", "coverage,fuzzing", "--seed", "1"]
        command += ["--exclude-checks", EXCLUDED_CHECKS, "--warnings", "off", f"{url}/openapi.json"]
        sys.exit(subprocess.run(command, cwd=folder, check=False).returncode)  # it writes reports


if __name__ == "__main__":
    main(*sys.argv[1:])
