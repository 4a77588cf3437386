"""`rope-service serve`, or `python -m service`: read the settings, and serve."""

import os
import signal
import sys

from pydantic import ValidationError

from service.settings import Settings

MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.arena_max=1"
)
"""Freed memory is kept and used again: the first touch of fresh memory costs many times a copy."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables that hold the options of torch's CUDA allocator."""


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        arguments = arguments[1:]
    settings = _read_settings(arguments)
    if not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        # each of the three streams has its own pool; with segments that can shrink, no pool holds
        # memory that another one needs. The other name is deprecated since torch 2.11
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    if "GLIBC_TUNABLES" not in os.environ:
        # read by the C library when a process starts, and then only
        os.environ["GLIBC_TUNABLES"] = MALLOC
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    # as process 1 of a container, a signal without a handler is ignored
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    from service.server.serve import serve

    serve(settings)


def _read_settings(arguments: list[str]) -> Settings:
    """Return the settings; prints them and exits where `--print-config` is among the arguments."""
    try:
        settings = Settings(
            _cli_parse_args=[a for a in arguments if a != "--print-config"],
            _cli_prog_name="rope-service serve [--print-config]",
        )
    except ValidationError as wrong:
        for error in wrong.errors(include_url=False):
            place = ".".join(str(part) for part in error["loc"]) or "settings"
            sys.stderr.write(f"rope-service: {place}: {error['msg']}\n")
        raise SystemExit(2) from None
    if "--print-config" in arguments:
        sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
        raise SystemExit(0)
    return settings


if __name__ == "__main__":
    main()
