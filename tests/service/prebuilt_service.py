"""Run a model's usual calls in a service on a GPU that is not there; run as a script.

Arguments: the folder of prebuilt kernels, the target, and a shape. Prints a line of JSON: whether
Triton's cache had each kernel that the calls needed.
"""

import json
import sys
from pathlib import Path

from triton import knobs
from triton.runtime import driver

from rope_core.errors import KernelNotBuilt
from rope_core.kernels.offline import OfflineDriver
from service.kernel_builds import triton_cache
from service.kernel_builds.warm_up_calls import usual_calls
from service.lifecycle import Lifecycle
from service.server.bootstrap import build_service
from service.settings import Settings, parse_shapes
from tests.service.fake_driver import FakeDriver


def main():
    folder, target, shape = sys.argv[1:]
    triton_cache.PREBUILT = Path(folder)
    hits = []
    knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
    driver.set_active(OfflineDriver(int(target)))
    service, threads = build_service(Settings(backend="fused"), Lifecycle(), FakeDriver())
    for call in usual_calls(*parse_shapes(shape)[0]):
        job = service.engine.job(call, "fused")
        while any(isinstance(r, KernelNotBuilt) for r in service.engine.run([job]).results):
            service.builder.wait()
    threads.shutdown()
    json.dump({"hits": hits, "at": triton_cache.__file__}, sys.stdout)


if __name__ == "__main__":
    main()
