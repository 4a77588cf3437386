"""What this process may use of its machine, as its control group says."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def num_cpus(root: Path = CGROUP) -> int:
    """Return the whole CPUs that the quota allows, at least 1; without one, those it may run on."""
    runnable = len(os.sched_getaffinity(0))
    quota = _read(root / "cpu.max")  # version 2: "max 100000" or "150000 100000"
    if quota is None:  # version 1
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota = " ".join(_read(root / "cpu" / name) or "-1" for name in names)
    allowed, _, period = quota.partition(" ")
    if not allowed.isdigit() or not period.isdigit():
        return runnable
    return max(1, min(runnable, int(allowed) // int(period)))


def memory_bytes(root: Path = CGROUP) -> int:
    """Return the memory that the control group allows, or that the machine has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_read(root / "memory.max"), _read(root / "memory" / "memory.limit_in_bytes"))
    allowed = [int(limit) for limit in limits if limit is not None and limit.isdigit()]
    return min([physical, *allowed])


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
