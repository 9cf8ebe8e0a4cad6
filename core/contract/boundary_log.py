"""The log of a boundary: signals that were read, conditions to look at later, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokensieve.core.errors import PluginError
from tokensieve.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as Device


@dataclass
class BoundaryLog:
    """A record that the views of one boundary share.

    Attributes:
        values: signals that were read, by name.
        later_checks: messages, and conditions that must not hold.
        notes: lines for the user.
    """

    values: dict[str, object] = field(default_factory=dict)
    later_checks: list[tuple[str, Tensor]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def looks_at_once(device: Device) -> bool:
    """Whether a condition can be read without waiting for other work of its device."""
    return device.type == "cpu"


def settle(later_checks: Sequence[tuple[str, Tensor]]) -> None:
    """Look at all conditions that were noted, in one transfer from the device.

    Raises:
        PluginError: a condition holds that must not.
    """
    if not later_checks:
        return
    device = later_checks[0][1].device
    flags = torch.stack([wrong.to(device) for _, wrong in later_checks]).tolist()
    for (message, _), wrong in zip(later_checks, flags, strict=True):
        if wrong:
            raise PluginError(message)
