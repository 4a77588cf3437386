"""Record what the service answers: `python -m tests.service.recorded.record`.

Writes `answers.jsonl.gz`, `openapi.json` and `metrics.json` beside this file. Run it on a commit
whose wire format is right: what it writes is what later commits are compared with.
"""

import gzip
import json
import tempfile
from pathlib import Path

import httpx

from tests.conftest import Serve
from tests.service.recorded.catalogue import all_cases
from tests.service.recorded.exchange import SETTINGS, encode, sending
from tests.service.recorded.surface import shape_of_metrics, shape_of_openapi

FOLDER = Path(__file__).parent
ANSWERS = FOLDER / "answers.jsonl.gz"
OPENAPI = FOLDER / "openapi.json"
METRICS = FOLDER / "metrics.json"


def record() -> None:
    """Send every request to a new service, and write its answers."""
    lines = []
    with tempfile.TemporaryDirectory() as folder, Serve(Path(folder))(**SETTINGS) as service:
        for case in all_cases():
            with sending(service) as (sender, region):
                for exchange in case["exchanges"]:
                    exchange["answer"] = sender.send(exchange)
                case["region"] = encode(region.read_bytes())
            lines.append(json.dumps(case, separators=(",", ":")))
        openapi = shape_of_openapi(httpx.get(f"{service.url}/openapi.json").json())
        metrics = shape_of_metrics(httpx.get(f"{service.url}/metrics").text)
    ANSWERS.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    OPENAPI.write_text(json.dumps(openapi, indent=1, sort_keys=True) + "\n")
    METRICS.write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record()
