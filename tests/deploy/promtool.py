"""Prometheus' own tool on files of rules."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def promtool(*arguments: str | Path, cwd: Path | None = None) -> None:
    """Run promtool; its complaints fail the test, and a test without promtool is skipped."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([tool, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts_that_fire(unit_tests: dict[str, Any]) -> set[str]:
    """Return the alerts that a file of promtool's unit tests lets fire."""
    return {
        case["alertname"]
        for test in unit_tests["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
