"""Imports run one way, and packages stay in their rooms."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A module may import from its own line and from the lines below, never from a line above.
LAYERS = """
service.__main__
service.cli.app
service.cli.options
service.cli.commands
service.cli.figures service.cli.frequency_table
service.cli.service_calls service.cli.frequency_rows
service.cli.rope_argument service.cli.tensor_files
service.cli.safetensors_file service.cli.http_client service.cli.recent_history
service.cli.http_load
service.cli.highlight
service.cli.output
service.cli.progress service.cli.preset_files service.cli.errors service.cli.pipe
service.read_settings
service.command_line
service.server.serve
service.server.app
service.server.api_docs
service.server.connection
service.server.websocket_streams
service.server.websocket
service.server.websocket_answers
service.server.connection_answers
service.server.websocket_handshake service.server.websocket_reader
service.server.websocket_pings
service.server.planned_answer
service.server.planned_requests
service.server.received_body
service.server.bootstrap service.server.status service.server.recent
service.server.page_routes
service.server.tls_transport service.server.uvicorn_server
service.page
service.server.asgi_protocol
service.server.asgi_cycle service.server.connection_limits service.server.acceptor
service.server.tls_records
service.server.connection_pacer
service.server.connection_deadlines
service.server.connection_draining service.server.unix_socket service.server.warm_up
service.server.half_close service.server.discard service.server.idle_trim
service.faults
service.oip.grpc
service.planned
service.oip.openapi
service.oip.http
service.oip.control
service.oip.infer.run
service.oip.state
service.oip.statistics service.oip.sequences
service.oip.infer
service.oip.shm
service.oip.types service.oip.validate
service.oip.errors
service.v1
service.asgi.body
service.sessions.build
service.sessions.handler
service.sessions.idempotent_creation
service.sessions.transfer.importing
service.sessions.transfer.manifest
service.sessions.transfer.exporting
service.sessions.transfer
service.sessions.operations.step_many
service.sessions.operations.step_many_request
service.sessions.operations.attach service.sessions.operations.create
service.sessions.operations.truncate service.sessions.operations.places
service.sessions.operations.reorder service.sessions.operations.fork
service.sessions.operations.change service.sessions.operations.tokens
service.sessions.operations.select_tail service.sessions.operations.rebase
service.sessions.operations.moves
service.sessions.operations.structural service.sessions.operations.token_plan
service.sessions.operations
service.sessions.running.call
service.sessions.running.offload
service.sessions.running.runner
service.inference.handler
service.worker.__main__
service.worker.answering service.worker.queue
service.worker.process
service.worker.frames service.worker.interrupter
service.sessions.creation.configuration
service.sessions.creation.model_groups
service.sessions.creation.layer_groups
service.sessions.creation.session_params
service.sessions.running.jobs
service.sessions.running.pieces
service.inference
service.sessions.running.translate service.sessions.find_source service.sessions.requests.layout
service.sessions.metrics
service.sessions.lifetime.registry
service.sessions.lifetime.pressure service.sessions.lifetime.table
service.sessions.lifetime.changes service.sessions.lifetime.documents
service.sessions.lifetime.expiry service.sessions.lifetime.quotas
service.sessions.lifetime.idempotency
service.sessions.lifetime.names
service.sessions.lifetime.session
service.sessions.lifetime.repeats service.sessions.lifetime.turns
service.sessions.lifetime.lease service.sessions.lifetime.ids
service.sessions.requests.guard service.sessions.lifetime.tombstones
service.sessions.running.answer
service.sessions.requests.parameters service.sessions.requests.tensors
service.asgi.middleware service.asgi.routing_errors
service.asgi.problems service.asgi.request_header service.asgi.request_body
service.asgi.io
service.endpoints
service.kernel_builds.prebuild
service.device
service.kernel_builds
service.batching
service.slab_pool service.wire
service.buffer_pool
service.memory_blocks service.pinned_memory service.resident_memory
service.access.gate service.access.exposure service.access.new_key
service.access.keys service.access.quota service.access.scopes service.access.hosts
service.access.certificates service.access.tenant
service.access.watched_file
service.listening
service.observability.request_log
service.sessions.errors service.sessions.paths
service.observability.metrics
service.errors service.lifecycle service.observability service.settings service.installation
service.exit_codes
rope_core.plots
rope_core.diagnosis.diagnose rope_core.comparison.compare
rope_core.diagnosis.table rope_core.diagnosis.attention
rope_core.diagnosis.rotation
rope_core.diagnosis.angles rope_core.diagnosis.explain
rope_core.diagnosis.mistakes
rope_core.diagnosis
rope_core.kvcache
rope_core.functional rope_core.comparison.parameter_differences
rope_core.differentiable rope_core.sources
rope_core.reference rope_core.attention rope_core.merge rope_core.accuracy
rope_core.kvcache.transfer.exporting
rope_core.kvcache.transfer
rope_core.kvcache.run
rope_core.kvcache.compute
rope_core.kvcache
rope_core.table_rotation
rope_core.rotary
rope_core.angles
rope_core.backends rope_core.hf rope_core.sentences rope_core.notebook
rope_core.gradients
rope_core.kernels
rope_core.compiled
rope_core.torch_rotation
rope_core.builds
rope_core.attention_warnings
rope_core.calls rope_core.length rope_core.positions rope_core.presets
rope_core.comparison.first_position
rope_core.scaling rope_core.pairs
rope_core.config rope_core.ragged rope_core.inference
rope_core.axes rope_core.layouts
rope_core.frequencies rope_core.length_dependence
rope_core.ntk_variants rope_core.own_frequencies
rope_core.progression rope_core.registry
rope_core.checks rope_core.comparison.first_difference
rope_core.errors
rope_core.miscount
"""

# The modules of rope_core.hf, in the same order.
HF = """
resolve heads
position_keys rope_config other_files lengths
position_key_values
position_key_names find_family
families
remote_code oddities
remote_rotations
custom_rotations variant
rope_parameters attention
head_dim layer_types hybrid_layer_types
nope
config_reader
family config_forms
"""

# Packages, and the only modules of ours that may import them.
KEPT_IN = {
    "fastapi": {"service.server", "service.oip.http"},
    "fastapi_offline": {"service.server"},
    "starlette": {"service.server"},
    "uvicorn": {"service.server"},
    "httptools": {"service.asgi.request_header"},
    "websockets": {"service.server"},
    "prometheus_client": {
        *("service.observability", "service.oip.statistics", "service.sessions.metrics")
    },
    "pydantic": {
        "service.server.recent",
        "service.read_settings",
        "service.settings",
        "service.endpoints",
    }
    | {"service.sessions.creation.session_params", "service.sessions.operations.rebase"}
    | {"service.v1", "service.oip.openapi", "service.oip.types", "service.oip.control"}
    | {"service.oip.infer", "service.access.keys"},
    "pydantic_settings": {"service.read_settings", "service.settings"},
    "orjson": {"service.wire", "service.endpoints", "service.oip"}
    | {"service.asgi.problems", "service.v1.http_params", "service.v1.session_messages"}
    | {"service.cli"},
    "simdjson": {"service.wire", "service.oip.http.codec"},
    "numpy": {"service.wire", "service.buffer_pool", "service.memory_blocks"}
    | {
        "service.slab_pool",
        "service.oip",
        "service.cli.tensor_files",
        "rope_core.diagnosis.angles",
        "rope_core.kvcache",
    },
    "asyncio": {"service.server", "service.lifecycle", "service.inference.handler"}
    | {"service.worker.queue"}
    | {"service.batching.batcher", "service.batching.call_queue", "service.asgi.body"}
    | {"service.oip.grpc", "service.oip.statistics", "service.oip.sequences"}
    | {"service.observability.line_writer", "service.sessions", "service.v1.session_transfer"},
    "grpc": {"service.oip.grpc"},
    "grpc_health": {"service.oip.grpc"},
    "grpc_reflection": {"service.oip.grpc"},
    "google.protobuf": {"service.oip.grpc"},
    "torch": {
        "rope_core",
        "service.planned",
        "service.server",
        "service.inference",
        "service.endpoints",
    }
    | {"service.device", "service.kernel_builds", "service.batching.packing", "service.oip"}
    | {"service.wire", "service.buffer_pool", "service.pinned_memory", "service.worker"}
    | {"service.observability.metrics", "service.cli", "service.sessions"},
    "rope_core": {
        "rope_core",
        "service.planned",
        "service.server",
        "service.v1",
        "service.oip",
        "service.inference",
    }
    | {"service.endpoints", "service.device", "service.kernel_builds", "service.batching.packing"}
    | {"service.asgi.problems", "service.cli", "service.worker", "service.sessions"},
    "xxhash": {"service.sessions.lifetime.repeats"},
    "service": {"service"},
    "rope_client": set(),
    "triton": {"rope_core.kernels", "service.kernel_builds"},
    "matplotlib": {"rope_core.plots"},
}
KEPT_IN |= {"typer": {"service.cli"}, "rich": {"service.cli"}}
# no unpickling, and no outgoing connection but that of --url
KEPT_IN |= {name: set() for name in ("pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml")}
KEPT_IN |= {name: set() for name in ("requests", "aiohttp", "urllib.request", "http.client")}
KEPT_IN |= {"httpx": {"service.cli.http_client"}}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    name_of(file): file
    for package in ("rope_core", "service")
    for file in (ROOT / package).rglob("*.py")
    if not file.is_relative_to(ROOT / "rope_core" / "build")  # pip install ./rope_core leaves it
}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@cache
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
        nothing = not imports(FILES[module]) or module == "rope_core"
        assert nothing, f"{module} has no line in LAYERS"
        return
    above = {name for names in levels[:level] for name in names}
    for name in imports(FILES[module]):
        assert not any(within(name, forbidden) for forbidden in above), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("rope_core.hf.")])
def test_imports_only_downwards_in_hf(module):
    lines = [line.split() for line in HF.split("\n") if line]
    level_of = {f"rope_core.hf.{name}": i for i, names in enumerate(lines) for name in names}
    assert module in level_of, f"{module} has no line in HF"
    below = {name: level for name, level in level_of.items() if name in imports(FILES[module])}
    assert all(level_of[module] < level for level in below.values()), f"{module} imports {below}"


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
    (tmp_path / "x.py").write_text("from service.server.app import create_app\nimport torch.nn\n")
    assert {"service.server.app", "torch.nn"} <= imports(tmp_path / "x.py")
    assert within("service.server.app", "service.server.app")
    assert not within("service.server.application", "service.server.app")


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        (
            "rope_core",
            {"fastapi", "starlette", "pydantic", "uvicorn", "grpc", "httpx", "service", "triton"}
            | {"matplotlib"},
        ),
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
