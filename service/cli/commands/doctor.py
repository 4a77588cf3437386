"""`rope-service doctor`: check what the service needs on this machine, and say what to do."""

import contextlib
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.text import Text

from rope_core import RopeConfig, RopeError, rotate
from rope_core.compiled import extension
from rope_core.presets.folder import RefusedPreset
from rope_core.reference import rotate_complex
from service import __version__
from service.cli.output import console, number_text
from service.device import cgroup, find_driver
from service.endpoints.presets import load_presets
from service.installation import core_conflict, has_grpc
from service.read_settings import read_settings
from service.server.acceptor import bind
from service.settings import PREFIX, Settings

MIN_MEMORY = 2 * 2**30
"""Least memory for a service: torch, and the default budget of requests, a quarter of it."""

TOLERANCE = 1e-6
"""Largest relative error of a rotation in float32, beside one in float64."""

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    """What to do if the check failed."""


def run_checks() -> Sequence[Check]:
    """Run all checks. None of them stops the others."""
    settings, of_settings = _check_settings()
    return [
        _check_packages(),
        of_settings,
        _check_device(settings),
        _check_triton(),
        _check_compiled_rotation(),
        _check_threads(settings),
        _check_memory(settings),
        *_check_ports(settings),
        _check_presets(settings),
        _check_rotation(),
    ]


def print_checks(checks: Sequence[Check]) -> None:
    """Print a line for each check, and below it what to do if it failed."""
    out = console()
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = ("✓", "good") if check.ok else ("✗", "bad")
        out.print(Text.assemble(mark, f" {check.name.ljust(width)}  ", check.found))
        if check.remedy:
            out.print(Text.assemble(" " * (width + 4), ("→ ", "bad"), check.remedy))


def json_report(checks: Sequence[Check]) -> str:
    """Return the checks as JSON."""
    report = {"ok": all(check.ok for check in checks), "checks": [asdict(c) for c in checks]}
    return json.dumps(report, ensure_ascii=False)


def _check_packages() -> Check:
    found = f"rope-service {__version__}, torch {torch.__version__}"
    found += (
        f", Python {platform.python_version()}, gRPC {'yes' if has_grpc() else 'not installed'}"
    )
    conflict = core_conflict()
    if conflict is None:
        return Check("packages", True, found)
    reason, _, remedy = conflict.partition("; ")
    return Check("packages", False, reason, remedy)


def _check_settings() -> tuple[Settings, Check]:
    """Return the settings of the environment; the defaults if they are wrong."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            settings = read_settings([])
    except SystemExit:
        reason = errors.getvalue().replace("rope-service: ", "").strip().replace("\n", "; ")
        remedy = "correct or unset the variable; `rope-service serve --help` lists all"
        return Settings.model_construct(), Check("settings", False, reason, remedy)
    names = sorted(settings.model_fields_set)
    given = ", ".join(PREFIX + name.upper() for name in names) or "the defaults"
    return settings, Check("settings", True, given)


def _check_device(settings: Settings) -> Check:
    try:
        driver = find_driver(settings.device)
    except SystemExit as failure:
        reason, _, remedy = str(failure).removeprefix("rope-service: ").partition(". ")
        return Check("device", False, reason, remedy or "set ROPE_DEVICE=cpu, or repair the driver")
    if driver is None:
        return Check("device", True, f"cpu: {platform.machine()}, no GPU is used")
    properties = torch.cuda.get_device_properties(driver.device)
    memory = number_text(properties.total_memory / GIB)
    versions = (
        f"CUDA {torch.version.cuda}, compute capability {properties.major}.{properties.minor}"
    )
    return Check("device", True, f"{properties.name}, {memory} GiB, {versions}")


def _check_triton() -> Check:
    try:
        found = version("triton")
    except PackageNotFoundError:
        needed = torch.cuda.is_available()
        remedy = "pip install 'rope-service[triton]': without it, the GPU runs slower operators"
        text = "not installed" if needed else "not installed; only a GPU needs it"
        return Check("triton", not needed, text, remedy if needed else "")
    return Check("triton", True, found)


def _check_compiled_rotation() -> Check:
    if extension() is not None:
        return Check("compiled rotation", True, "in use")
    found = "missing, or not equal to torch on this processor: operators of torch are used"
    return Check("compiled rotation", True, found)


def _check_threads(settings: Settings) -> Check:
    allowed = cgroup.num_cpus()
    threads = settings.threads or allowed
    found = f"{threads} of {allowed} CPUs"
    if threads <= allowed:
        return Check("threads", True, found)
    remedy = f"set ROPE_THREADS to at most {allowed}: more threads wait for each other"
    return Check("threads", False, found, remedy)


def _check_memory(settings: Settings) -> Check:
    limit = cgroup.memory_bytes()
    budget = settings.memory_budget_bytes or min(limit // 4, 4 * GIB)
    found = f"{number_text(limit / GIB)} GiB, {number_text(budget / GIB)} GiB for requests"
    if limit < MIN_MEMORY:
        remedy = f"allow {MIN_MEMORY // GIB} GiB or more"
        return Check("memory", False, found, remedy)
    if budget > limit // 2:
        remedy = "set ROPE_MEMORY_BUDGET_BYTES to less than half of the memory"
        return Check("memory", False, found, remedy)
    return Check("memory", True, found)


def _check_ports(settings: Settings) -> Sequence[Check]:
    names = ["http_port", "grpc_port"] if has_grpc() else ["http_port"]
    names += ["status_port"] if settings.status_port is not None else []
    checks = []
    for name in names:
        port, host = getattr(settings, name), settings.http_host
        try:
            for listener in bind(host, port, PREFIX + name.upper()):
                listener.close()
        except OSError as failure:
            reason, _, remedy = str(failure.strerror).partition("; ")
            checks.append(Check(name, False, reason, remedy))
        else:
            checks.append(Check(name, True, f"{host}:{port} is free"))
    return checks


def _check_presets(settings: Settings) -> Check:
    folder = settings.presets_dir
    try:
        presets = load_presets(folder)
    except RopeError as error:
        remedy = "set ROPE_PRESETS_DIR to a folder that this user may read, or unset it"
        return Check("presets", False, str(error), remedy)
    refused = [preset for preset in presets.values() if isinstance(preset, RefusedPreset)]
    where = "no ROPE_PRESETS_DIR" if folder is None else f"ROPE_PRESETS_DIR is {folder}"
    if not refused:
        return Check("presets", True, f"{len(presets)} presets; {where}")
    reasons = "; ".join(f"{preset.name}: {preset.reason}" for preset in refused)
    return Check("presets", False, f"{len(refused)} files are no presets", reasons)


def _check_rotation() -> Check:
    """Rotate once on the device of the service, and compare with float64."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rope = RopeConfig.of(128, theta=5e5)
    q = torch.randn(1, 64, 8, 128, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(64) * 2_048
    try:
        rotated = rotate(q.to(device), rope=rope, positions=positions.to(device))
    except (RopeError, RuntimeError) as failure:
        return Check("rotation", False, str(failure), "report this as a bug, with `doctor --json`")
    expected = rotate_complex(q, positions, rope)
    error = float((rotated.cpu().double() - expected).norm() / expected.norm())
    found = f"on {device}, relative error {number_text(error)} beside float64"
    remedy = "" if error <= TOLERANCE else "reinstall torch, and run `rope-service doctor` again"
    return Check("rotation", error <= TOLERANCE, found, remedy)
