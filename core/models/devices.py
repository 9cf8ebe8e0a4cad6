"""Devices: those that torch knows, if this machine has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.core.errors import ModelError
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import device as Device


def find_device(name: str) -> Device:
    """The torch device; an error if this machine does not have it."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"unknown device {name!r}, allowed: cpu, cuda, cuda:0, cuda:1, ..., mps")
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }[device.type]
    if not available:
        raise ModelError(f"device {name!r} is not available on this machine, try: --device cpu")
    return device
