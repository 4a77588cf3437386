"""The kernels of attention compile for all GPUs that are supported, and fit them without spills.

Where there is a second triton, in `.venv-triton` or in the folder ROPE_TRITON, it compiles them
as well: the one that the image runs may not be the one of the virtual environment.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rope_core.kernels.head_dims import HEAD_DIMS
from rope_core.kernels.offline import MAX_SHARED_MEM
from rope_core.kernels.runtime import H100, DeviceProperties
from rope_core.kernels.tile_configs import why_no_tile
from tests.conftest import ROOT

SECOND_TRITON = Path(os.environ.get("ROPE_TRITON", ROOT / ".venv-triton"))
DTYPES = torch.float32, torch.float16, torch.bfloat16


def lines_of(script, *arguments, folder=None):
    """Return the lines of a script, run with this triton or with that of a folder."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    if folder is not None:
        environment["PYTHONPATH"] = str(folder)
    command = [sys.executable, "-m", f"tests.kernels.{script}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("folder", [None, SECOND_TRITON], ids=["this triton", "a second triton"])
def test_kernels_compile_for_all_gpus_and_fit_them(folder):
    if folder is not None and not folder.exists():
        pytest.skip(f"there is no second triton in {folder}")
    *lines, summary = lines_of("compiled", "suite", folder=folder)
    assert summary["failures"] == 0, lines
    assert summary["too_much_shared"] == 0, lines
    assert summary["spilled"] == 0, lines
    assert {line["arch"] for line in lines} == {*MAX_SHARED_MEM}
    for line in lines:
        if line["kernel"] != "merge":
            assert line["copies_16"], f"keys are not copied 16 bytes at a time: {line}"
        if line["kernel"] in ("prefill", "append") and line["dtype"] == "torch.bfloat16":
            unit = {90: "wgmma", 100: "tcgen05"}.get(line["arch"], "mma")
            assert line[unit], line


def test_calls_of_one_model_compile_no_more_than_the_list():
    for line in lines_of("variant_counts"):
        assert line["compiled"] == line["allowed"] <= 50, line


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arch", MAX_SHARED_MEM)
def test_every_width_of_the_list_has_tiles_on_every_card(arch, dtype):
    for widths in [*((width, width) for width in HEAD_DIMS), (192, 128)]:
        assert why_no_tile(DeviceProperties(arch, MAX_SHARED_MEM[arch]), dtype, *widths) is None


@pytest.mark.parametrize(
    ("card", "widths", "text"),
    [
        (DeviceProperties(75, 65_536), (64, 64), "older than compute capability 8.0"),
        (H100, (272, 272), "no kernels for heads of width 272"),
        (H100, (60, 60), "no kernels for heads of width 60"),
        (
            H100,
            (128, 64),
            "no kernels for heads of width 128 and values of 64",
        ),
        (DeviceProperties(87, 65_536), (128, 128), "do not fit the shared memory"),
    ],
)
def test_the_reason_says_what_has_no_tiles(card, widths, text):
    assert text in why_no_tile(card, torch.bfloat16, *widths)
