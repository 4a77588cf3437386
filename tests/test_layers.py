"""Imports run one way, and packages stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# a module may import those on its own line and on the lines below it, never above
LAYERS = """
service.__main__
service.serve
service.app
service.oip
service.offers service.middleware service.routes service.openapi
service.schemas service.examples
service.life
service.records service.listeners
service.prebuild
service.warm_up service.calling
service.http service.failures service.endpoints service.engine
service.device
service.asks
service.local service.index service.choice service.warm_up_calls
service.params
service.ropes
service.packing
service.batcher service.admission service.slabs service.wire service.host
service.errors service.metrics service.settings service.logs service.kernel_cache
rope_core.reference rope_core.attention rope_core.merge rope_core.accuracy
rope_core.rotary
rope_core.angles
rope_core.backends rope_core.hf
rope_core.kernels
rope_core.builds
rope_core.calls rope_core.length rope_core.positions rope_core.presets
rope_core.config rope_core.ragged rope_core.inference
rope_core.axes rope_core.layouts
rope_core.frequencies
rope_core.progression rope_core.registry
rope_core.checks
rope_core.errors
"""

# packages, and the only modules of ours that may import them
KEPT_IN = {
    "fastapi": {"service.app", "service.oip"},
    "fastapi_offline": {"service.app"},
    "starlette": {"service.app"},
    "uvicorn": {"service.serve", "service.life", "service.offers"},
    "httptools": {"service.offers"},
    "prometheus_client": {"service.metrics", "service.records", "service.oip"},
    "pydantic": {"service.params", "service.endpoints", "service.settings", "service.openapi"}
    | {"service.__main__", "service.ropes", "service.local", "service.oip"},
    "pydantic_settings": {"service.settings"},
    "orjson": {"service.wire", "service.logs", "service.failures", "service.local"}
    | {"service.oip"},
    "numpy": {"service.wire", "service.slabs", "service.oip"},
    "asyncio": {"service.app", "service.batcher", "service.life", "service.routes"}
    | {"service.listeners", "service.calling", "service.oip"},
    "grpc": {"service.oip.grpc"},
    "grpc_health": {"service.oip.grpc"},
    "grpc_reflection": {"service.oip.grpc"},
    "google.protobuf": {"service.oip.grpc"},
    "torch": {"rope_core", "service.app", "service.engine", "service.wire", "service.slabs"}
    | {"service.device", "service.packing", "service.warm_up_calls"}
    | {"service.metrics", "service.endpoints", "service.local", "service.asks", "service.index"}
    | {"service.oip"},
    "rope_core": {"rope_core", "service.endpoints", "service.engine", "service.failures"}
    | {
        "service.asks",
        "service.index",
        "service.oip",
        "service.choice",
        "service.params",
        "service.calling",
        "service.routes",
        "service.ropes",
        "service.local",
        "service.app",
        "service.device",
        "service.packing",
        "service.warm_up",
        "service.warm_up_calls",
        "service.prebuild",
    },
    "service": {"service"},
    "rope_client": set(),
    "triton": {"rope_core.kernels", "service.kernel_cache", "service.prebuild"},
}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    name_of(f): f for package in ("rope_core", "service") for f in (ROOT / package).rglob("*.py")
}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_only_downwards(module):
    levels = [line.split() for line in LAYERS.split("\n") if line]
    level = next(
        (i for i, names in enumerate(levels) if any(within(module, n) for n in names)), None
    )
    if level is None:
        assert module in ("service", "rope_core"), f"{module} has no floor in LAYERS"
        return
    above = {name for names in levels[:level] for name in names}
    for name in imports(FILES[module]):
        assert not any(within(name, forbidden) for forbidden in above), f"{module} imports {name}"


@pytest.mark.parametrize("package", KEPT_IN)
def test_packages_stay_in_their_rooms(package):
    users = {
        module
        for module, file in FILES.items()
        if any(within(name, package) for name in imports(file))
    }
    strangers = {u for u in users if not any(within(u, room) for room in KEPT_IN[package])}
    assert not strangers, f"{package} is imported by {strangers}"


def test_a_wrong_import_is_seen(tmp_path):
    """The tests above can fail."""
    (tmp_path / "x.py").write_text("from service.app import create_app\nimport torch.nn\n")
    assert {"service.app", "torch.nn"} <= imports(tmp_path / "x.py")
    assert within("service.app", "service.app")
    assert not within("service.application", "service.app")


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("rope_core", {"fastapi", "starlette", "pydantic", "uvicorn", "service", "triton"}),
        ("rope_client", {"torch", "service", "rope_core", "pydantic"}),
    ],
)
def test_what_an_import_really_loads(package, unwanted):
    """On a fresh interpreter, however the import is written."""
    script = f"import sys, {package}; print(*sorted({unwanted} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert loaded.split() == []
