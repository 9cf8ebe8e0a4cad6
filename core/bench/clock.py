"""Clocks: the host's, and the device's own where work is asynchronous."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import torch

from tokensieve.core.errors import UnsupportedError


class Clock(ABC):
    """Makes marks in the stream of work, and tells the seconds between two of them."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until all work that was asked for is done."""

    @abstractmethod
    def mark(self) -> Any:
        """Mark this point; costs next to nothing and waits for nothing."""

    @abstractmethod
    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks; to be asked after :meth:`settle`."""


class HostClock(Clock):
    """Wall time; for devices that work synchronously."""

    def settle(self) -> None:
        """Nothing is pending on a CPU."""

    def mark(self) -> float:
        """The seconds of the host's clock."""
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """The difference of two marks."""
        return end - start


class CudaClock(Clock):
    """CUDA events: the device's own time, gaps in which it waits for the host included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def settle(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self.device)

    def mark(self) -> torch.cuda.Event:
        """Record an event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Elapsed time between two events."""
        return float(start.elapsed_time(end)) / 1000


def clock_for(device: torch.device) -> Clock:
    """The clock of a device."""
    if device.type == "cpu":
        return HostClock()
    if device.type == "cuda":
        return CudaClock(device)
    raise UnsupportedError(f"bench cannot time device {device.type!r}, allowed: cpu, cuda")
