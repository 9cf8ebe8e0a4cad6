"""Processors that there are to use, which are not all that the machine has."""

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
    try:
        allowed, period = map(int, quota.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # there is no limit, or it says "max"
        return max(1, count)
    return max(1, min(count, -(-allowed // period)))
