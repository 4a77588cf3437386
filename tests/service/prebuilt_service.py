"""Warm a service up for a GPU that is not there, with kernels that were prebuilt; run as a script.

Arguments: the folder of prebuilt kernels, the target, and a shape. Prints a line of JSON: whether
Triton's cache had each kernel that the warm-up needed.
"""

import json
import sys
from pathlib import Path

from triton import knobs
from triton.runtime import driver

from rope_core.kernels.offline import OfflineDriver
from service import kernel_cache
from service.app import make_service
from service.life import Life
from service.settings import Settings, shapes_of
from service.warm_up import warm_up
from service.warm_up_calls import usual_calls
from tests.service.fake_driver import FakeDriver


def main():
    folder, target, shape = sys.argv[1:]
    kernel_cache.PREBUILT = Path(folder)
    hits = []
    knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
    driver.set_active(OfflineDriver(int(target)))
    service, threads = make_service(Settings(backend="fused"), Life(), FakeDriver())
    warm_up(service.engine, service.choice, service.builder, usual_calls(*shapes_of(shape)[0]))
    threads.shutdown()
    json.dump({"hits": hits, "at": kernel_cache.__file__}, sys.stdout)


if __name__ == "__main__":
    main()
