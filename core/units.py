"""Numbers as people read them."""

from __future__ import annotations

PREFIXES = ("", "k", "M", "G", "T", "P")
STEP = 1000.0


def flops(value: float, beside: float | None = None) -> str:
    """Operations as ``1.557 TFLOPs``; in the unit that suits ``beside``, to be compared with it."""
    return _scaled(value, beside, "FLOPs", 3)


def size(value: float, beside: float | None = None) -> str:
    """Bytes as ``123.9 MB`` (powers of ten)."""
    return _scaled(value, beside, "B", 1)


def percent(share: float) -> str:
    """A share as ``40.8 %``."""
    return f"{share * 100:.1f} %"


def duration(seconds: float, beside: float | None = None) -> str:
    """Seconds as ``12.3 ms`` or ``1.23 s``."""
    long = (seconds if beside is None else beside) >= 1
    return f"{seconds:.2f} s" if long else f"{seconds * 1000:.1f} ms"


def _scaled(value: float, beside: float | None, unit: str, digits: int) -> str:
    reference, power = abs(value if beside is None else beside), 0
    while reference >= STEP and power < len(PREFIXES) - 1:
        reference, power = reference / STEP, power + 1
    return f"{value / STEP**power:.{digits}f} {PREFIXES[power]}{unit}"
