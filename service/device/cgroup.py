"""CPUs and memory that the control group (cgroup) of this process allows."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def num_cpus(root: Path = CGROUP) -> int:
    """Return the quota in whole CPUs, at least 1; without a quota, the CPUs of the affinity."""
    affinity = len(os.sched_getaffinity(0))
    limit = _read(root / "cpu.max")  # version 2: "max 100000" or "150000 100000"
    if limit is None:  # version 1
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        limit = " ".join(_read(root / "cpu" / name) or "-1" for name in names)
    quota, _, period = limit.partition(" ")
    if not quota.isdigit() or not period.isdigit():
        return affinity
    return max(1, min(affinity, int(quota) // int(period)))


def memory_bytes(root: Path = CGROUP) -> int:
    """Return the memory limit; without one, the memory of the machine."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = (_read(root / "memory.max"), _read(root / "memory" / "memory.limit_in_bytes"))
    limits = [int(text) for text in texts if text is not None and text.isdigit()]
    return min([physical, *limits])


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
