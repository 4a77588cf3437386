"""Fuzz each parser for SECONDS: `python -m tests.fuzz.parsers SECONDS`.

An input that breaks a property is stored as a seed, and the exit status is 1.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["service", "rope_core"]):
    from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"
MAX_BYTES = 4096


def main(seconds: str) -> None:
    """Fuzz each target in a child process: the fuzzer exits its process."""
    failed = []
    for name in TARGETS:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        with TemporaryDirectory(prefix="fuzz-") as folder:
            child = os.fork()
            if not child:
                _fuzz(name, seconds, folder)
            _, status = os.waitpid(child, 0)
        if status:
            failed.append(name)
    sys.exit(f"broken: {', '.join(failed)}" if failed else 0)


def _fuzz(name: str, seconds: str, folder: str) -> None:
    """Fuzz a target from its seeds. Inputs that reach new code are written to `folder` only."""
    seeds = SEEDS / name
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-verbosity=0", "-timeout=5"]
    folders = [folder, str(seeds)]
    atheris.Setup([sys.argv[0], f"-artifact_prefix={seeds}/", *options, *folders], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
