"""Send requests generated from the OpenAPI document, and check each answer against the document."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import Serve

CONFIG = Path(__file__).parent / "schemathesis.toml"

# A schema cannot express every rule of a valid request: sizes of tensors depend on each other, for
# example. So the checks that compare acceptance with the schema are excluded.
EXCLUDED_CHECKS = "positive_data_acceptance,negative_data_rejection"


def main(seconds: str) -> None:
    """Fuzz a service that is started for it; exit with schemathesis's status."""
    with TemporaryDirectory() as folder, Serve(Path(folder))(ROPE_LOG_LEVEL="error") as (url, _):
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        command += ["--max-time", seconds, "--phases", "coverage,fuzzing", "--seed", "1"]
        command += ["--exclude-checks", EXCLUDED_CHECKS, "--warnings", "off", f"{url}/openapi.json"]
        # schemathesis writes reports into its working directory
        sys.exit(subprocess.run(command, cwd=folder, check=False).returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
