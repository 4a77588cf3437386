"""Every test that takes `backend` runs on each of them: kernels in Triton's interpreter.

That takes up to a second a case, so that of a test's cases a few are interpreted, in which every
value of each of its parameters occurs; all with `--interpret-all`. Other backends run all cases.
"""

from collections import defaultdict

import pytest

from rope_core.backends import fused
from tests.core.oracle import RUN_HERE
from tests.spread import spread


@pytest.fixture(params=RUN_HERE, ids=lambda backend: backend.name)
def backend(request):
    if request.param is fused:
        request.getfixturevalue("interpreted")
    return request.param


def pytest_collection_modifyitems(config, items):
    if config.getoption("interpret_all"):
        return
    tests = defaultdict(list)
    for item in items:
        params = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(value is fused for value in params):
            tests[item.nodeid.partition("[")[0]].append(item)
    left_out = set()
    for cases in tests.values():
        chosen = spread([[*map(id, case.callspec.params.values())] for case in cases])
        left_out |= {case for place, case in enumerate(cases) if place not in chosen}
    if left_out:
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]
