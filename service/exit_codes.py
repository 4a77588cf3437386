"""Exit codes of the process, for process managers."""

from collections.abc import Mapping

START_FAILED = 1
WRONG_SETTING = 2
NOT_LISTENING = 3
"""The same as uvicorn's `STARTUP_FAILURE`."""
DEVICE_LOST = 70
DEVICE_STUCK = 71

EXIT_CODES: Mapping[int, str] = {
    0: "the service was stopped by a signal, and all accepted requests were answered",
    START_FAILED: "the start failed: the device, or a file that a setting names, cannot be used",
    WRONG_SETTING: "a command, a flag or a variable is unknown, or its value is not valid",
    NOT_LISTENING: "a port or the Unix-domain socket is in use, or may not be opened",
    DEVICE_LOST: "the device failed, and the process cannot use the device any more: restart",
    DEVICE_STUCK: "the device made no progress for ROPE_DEVICE_STUCK_S: restart",
    143: "SIGTERM arrived before the service had started",
}
"""What each exit code means."""
