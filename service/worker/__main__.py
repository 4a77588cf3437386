"""The worker process: `python -m service.worker SOCKET CONTROL [PRESETS_DIR]`, by descriptors."""

import os
import signal
import sys

NICE = 19
"""The scheduler prefers the service to a process of this priority."""


def main() -> None:
    """Answer requests until the service closes the socket, or ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of a terminal, or of a process manager
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICE)
    _prefer_as_victim()
    from service.worker.answering import answer_requests  # takes seconds

    data_fd, control_fd, *presets_dir = sys.argv[1:]
    answer_requests(int(data_fd), int(control_fd), *presets_dir)


def _prefer_as_victim() -> None:
    """Let the kernel end this process, and not the service, where memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:  # not on Linux
        return


if __name__ == "__main__":
    main()
