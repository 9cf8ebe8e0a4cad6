"""Devices in a study's file: those that torch can name, whatever digits and spaces look like."""

from __future__ import annotations

import pytest
import torch
from command_line import clear
from study_helpers import spec_of

from tokensieve.core.errors import PipelineError

KNOWN = ("cpu", "mps", "cuda", "cuda:0", "cuda:7", "cuda:10", "cuda:127")
OTHERS = (
    "", "CPU", "gpu", "meta", "xpu:0", "cpu:0", " cpu", "cpu\n", "cuda:", "cuda: 1", "cuda:+1",
    "cuda:-1", "cuda:01", "cuda:00", "cuda:1e3", "cuda:0x1", "cuda:1_0", "cuda:1000",
    "cuda:99999999999999999999", "cuda:\u0663", "cuda:\uff11", "cuda:\u00b2", "cuda:\U0001d7d9",
    "cuda:0\n", "cuda:0,1", "cuda:0 ", "\u0441uda", "cuda\uff1a0", "null", "~", "*",
)  # fmt: skip


@pytest.mark.parametrize("device", KNOWN)
def test_devices_of_torch(device: str) -> None:
    (model,) = spec_of(models=[{"model": "tiny-llava", "device": device}]).models
    assert model.device == str(torch.device(device))


@pytest.mark.parametrize("device", OTHERS, ids=ascii)
def test_other_devices_are_refused_while_planning(device: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec_of(models=[{"model": "tiny-llava", "device": device}])
    clear(str(caught.value), "models[0]", "device", "allowed: cpu, cuda, cuda:0, mps")
