"""How many processors there are to use, which is not how many the machine has."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = QUOTA) -> int:
    """Cores that this process may use: its affinity, and the limit of a container."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, _limit(quota) or count))


def _limit(quota: Path) -> int | None:
    """Whole cores of a control group's time, rounded up; None if it has no limit."""
    try:
        allowed, period = map(int, quota.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
    return -(-allowed // period)
