"""Build the C extension that Triton otherwise compiles at the first launch; needs gcc.

    TRITON_CACHE_DIR=/opt/rope/triton python build_cuda_utils.py /opt/stub

The image then needs no compiler. The extension links against libcuda.so.1, which is part of a GPU's
driver and missing where images are built, so a stub replaces it. The stub defines all symbols that
the extension needs, because the linker drops a library that defines none of them.
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import triton
from triton.backends.nvidia import driver

MIN_TRITON = (3, 7)
LOAD_EXTENSION = "from triton.backends.nvidia.driver import CudaUtils; CudaUtils()"
"""Makes Triton load its extension. Triton compiles it if it is not in the cache."""


def main() -> None:
    """Build the stub and the extension."""
    check_triton(triton.__version__)
    stub = Path(sys.argv[1])
    build_stub(stub)
    build_extension(stub)


def check_triton(version: str) -> None:
    """Exit if Triton is too old for an image without a compiler."""
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < MIN_TRITON:
        minimum = ".".join(map(str, MIN_TRITON))
        raise SystemExit(
            f"triton {version} compiles C for each kernel signature at run time, and the image "
            f"has no compiler: use triton {minimum} or newer, as torch 2.13 for CUDA does"
        )


def build_stub(folder: Path) -> None:
    """Write a libcuda.so.1 to a folder; its functions do nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(driver.__file__).with_name("driver.c")
    headers = [*driver.include_dirs, sysconfig.get_path("include", "posix_prefix")]
    extension, stub = folder / "driver.so", folder / "libcuda.so.1"
    gcc = ["gcc", "-shared", "-fPIC", "-w", "-o"]
    _run(*gcc, extension, source, *(f"-I{folder}" for folder in headers))
    undefined = _run("nm", "-D", "--undefined-only", extension)
    extension.unlink()
    symbols = re.findall(r"\bcu[A-Z]\w*", undefined)
    functions = "".join(f"int {name}(void) {{ return 0; }}\n" for name in symbols)
    _run(*gcc, stub, "-Wl,-soname,libcuda.so.1", "-xc", "-", stdin=functions)


def build_extension(stub: Path) -> None:
    """Let Triton compile its extension into TRITON_CACHE_DIR and load it."""
    # the loader reads LD_LIBRARY_PATH when a process starts
    variables = {"TRITON_LIBCUDA_PATH": str(stub), "LD_LIBRARY_PATH": str(stub)}
    subprocess.run([sys.executable, "-c", LOAD_EXTENSION], env=os.environ | variables, check=True)


def _run(*command: str | Path, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
