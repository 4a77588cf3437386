"""Return free memory to the system when no request has been charged for a while."""

import asyncio
from collections.abc import Callable

from service.batching.admission import Admission

IDLE_S = 1.0
"""Seconds between two checks. The service is idle if no request was charged between them, and none
holds charged memory."""


class IdleTrim:
    """Trims the memory of an idle service.

    Requests of all sizes leave holes in the heap of the C library's allocator. The holes are used
    again while requests come, but the pages of all holes together would stay resident.

    No timer runs while the service is idle. A busy service calls `on_charge` once for each check.

    Args:
        admission: charges the requests.
        trim: returns free memory to the system.
    """

    def __init__(self, admission: Admission, trim: Callable[[], object]) -> None:
        self._admission = admission
        self._trim = trim
        self._was_charged = False
        self._timer: asyncio.TimerHandle | None = None
        admission.on_charge = self._note_charge

    def _note_charge(self) -> None:
        self._was_charged = True
        if self._timer is None:
            self._check_later()

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._check)

    def _check(self) -> None:
        was_charged, self._was_charged = self._was_charged, False
        self._admission.on_charge = self._note_charge
        if was_charged or self._admission.charged_bytes:
            self._check_later()
        else:
            self._timer = None
            self._trim()
