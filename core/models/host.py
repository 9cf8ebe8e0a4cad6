"""The machine that runs a model."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """The CPU, as the operating system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
