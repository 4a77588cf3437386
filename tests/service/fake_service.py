"""The service on a device that fails: `FAKE=lost:1000 python -m tests.service.fake_service`.

The fault comes with the first run that brings more than that many bytes.
"""

import os
import threading

import torch

from service.server.serve import serve
from service.settings import Settings
from tests.service.fake_driver import FakeDriver


def main() -> None:
    kind, _, limit = os.environ["FAKE"].partition(":")
    driver = FakeDriver()

    def fault(step: str, num_bytes: int) -> None:
        if step != "copy_to_device" or num_bytes <= int(limit):
            return
        match kind:
            case "lost":
                driver.lose()
            case "stuck":
                threading.Event().wait()
            case "full":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 13.37 GiB")

    driver.fault = fault
    serve(Settings(), driver)


if __name__ == "__main__":
    main()
