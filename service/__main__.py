"""Command line: `rope-service serve`, or `python -m service`."""

import os
import signal
import sys
from typing import TYPE_CHECKING

from service.command_line import TOOLS, run_command

if TYPE_CHECKING:
    from service.settings import Settings

STDIN, STDOUT, STDERR = 0, 1, 2
"""File descriptors of the standard streams."""

MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:"
    "glibc.malloc.mmap_threshold=4194304:glibc.malloc.trim_threshold=67108864"
)
"""Keeps 64 MiB of freed memory for reuse: the first touch of fresh memory costs many times a copy.

Blocks of 4 MiB and more return to the system at once: gRPC messages and temporary tensors. In the
heap they would cause fragmentation. Large HTTP bodies use the buffer pool instead.
"""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables that hold the options of torch's CUDA allocator."""

GRPC_EXPERIMENTS = "-event_engine_listener"
"""Sockets are read by the thread that waits for RPCs. By default the core of grpcio has threads of
its own for that, and each event passes from one to another."""


COMPLETION_FLAGS = ("--install-completion", "--show-completion")
COMPLETION_VARIABLE = "_ROPE_SERVICE_COMPLETE"
"""Set by the shell, which asks for the words that may follow."""


def main() -> None:
    """Run the command line."""
    open_closed_streams()
    arguments = sys.argv[1:]
    command = "serve"
    if arguments and not arguments[0].startswith("-"):
        command = arguments.pop(0)
    elif arguments[:1] in (["--help"], ["-h"]):
        command = "help"
    elif arguments[:1] == ["--version"]:
        command = "version"
    if (
        command in TOOLS
        or (arguments and arguments[0] in COMPLETION_FLAGS)
        or COMPLETION_VARIABLE in os.environ
    ):
        try:
            from service.cli.app import run

            code = run(sys.argv[1:])
        except KeyboardInterrupt:  # while modules are imported
            code = 128 + signal.SIGINT
        raise SystemExit(code)
    if command != "serve":
        sys.stdout.write(run_command(command, arguments))
        return
    if not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        # Each of the three streams has its own pool. Segments that can shrink leave memory to the
        # other pools. The second name is deprecated since torch 2.11.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    if "GLIBC_TUNABLES" not in os.environ:
        # the C library reads the variable only when a process starts; before other imports, which
        # the new process would repeat
        os.environ["GLIBC_TUNABLES"] = MALLOC
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from service.read_settings import read_settings

    settings = read_settings(arguments)
    _check_installation(settings)
    # process 1 of a container ignores a signal that has no handler
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    # SIGHUP reloads files once the service runs, and must not end the process before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from service.server.serve import serve

    serve(settings)


def open_closed_streams() -> None:
    """Open the null device in place of a standard stream that is closed.

    The next file or socket would get the descriptor of the stream, and the log would go there.
    """
    closed = [fd for fd in range(3) if _is_closed(fd)]
    for _ in closed:
        fd = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(STDOUT, "w")
    if sys.stderr is not None and STDOUT in closed:
        sys.stderr.write("rope-service: standard output is closed: no log is written\n")
    if sys.stdin is None:
        sys.stdin = os.fdopen(STDIN)
    if sys.stderr is None:
        sys.stderr = os.fdopen(STDERR, "w")


def _is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def _check_installation(settings: "Settings") -> None:
    """Exit with code 2 if what is installed cannot do what the settings ask for."""
    from service.installation import GRPC_REMEDY, core_conflict, has_grpc

    problem = core_conflict()
    if problem is None and "grpc_port" in settings.model_fields_set and not has_grpc():
        problem = (
            "grpc_port is set, but gRPC is not installed: "
            f"{GRPC_REMEDY}, or leave ROPE_GRPC_PORT and --grpc-port out"
        )
    if problem is not None:
        sys.stderr.write(f"rope-service: {problem}\n")
        raise SystemExit(2)


if __name__ == "__main__":
    main()
