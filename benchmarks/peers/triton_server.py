"""Triton with its python backend, over HTTP and gRPC; the program is in nvidia-pytriton's wheel."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.functions import MAX_BATCH

# Triton's interpreter ignores PYTHONPATH
MODEL = f"""
import sys
sys.path[:0] = {[str(Path.cwd()), *sys.path]}
from benchmarks.peers.triton_model import TritonPythonModel
"""
INPUTS = {"rotate": ("q",), "attend": ("q", "k", "v")}
"""float32 inputs `[B, S, H, D]` of each model."""

CONFIG = """
backend: "python"
max_batch_size: {max_batch}
dynamic_batching {{ }}
input [ {inputs} ]
output [ {{ name: "out" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


def serve(folder: Path) -> None:
    """Write the models to a folder, and run Triton."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http-port", required=True)
    parser.add_argument("--grpc-port", required=True)
    args = parser.parse_args()
    spec = find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    libraries = package.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }
    shutil.copytree(server / "backends", folder / "backends")
    shutil.copy(stub, folder / "backends" / "python")
    _write_models(folder / "models")
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--http-port={args.http_port}",
        f"--grpc-port={args.grpc_port}",
        "--allow-metrics=false",
    ]
    with subprocess.Popen(command, env=environment) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # it removes its shared memory


def _write_models(folder: Path) -> None:
    for name, floats in INPUTS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        inputs = [f'{{ name: "{i}" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }}' for i in floats]
        inputs.append('{ name: "positions" data_type: TYPE_INT64 dims: [ -1 ] }')
        config = CONFIG.format(max_batch=MAX_BATCH, inputs=", ".join(inputs))
        (version.parent / "config.pbtxt").write_text(config)


if __name__ == "__main__":
    with TemporaryDirectory(prefix="rope-bench-triton-") as path:
        serve(Path(path))
