"""The gate for records of a vision encoder: a row for each token, in numbers."""

from __future__ import annotations

from tokensieve.core.contract.answers import described
from tokensieve.core.contract.vision_record import VisionRecord
from tokensieve.core.errors import PluginError
from tokensieve.core.foreign import shown
from tokensieve.core.lazy import torch

PER_TOKEN = {"outputs": 2, "features": 2, "grid": 2, "tile": 1, "clip_relevance": 1}
"""Fields with a row for each token, and how many axes they have."""


def check_record(record: VisionRecord, adapter: str) -> None:
    """Refuse a record that does not fit its own tokens: signals would belong to other ones.

    Raises:
        PluginError: it names the adapter and the field.
    """
    title, images = f"adapter {shown(adapter)}: the record of its encoder", record.images
    if not isinstance(images, list) or not all(type(n) is int and n >= 0 for n in images):
        raise PluginError(f"{title} has the images {shown(images)}: tokens of each picture")
    for field, axes in PER_TOKEN.items():
        _check_rows(f"{title}: {field}", getattr(record, field), sum(images), axes)
    _check_rows(f"{title}: cls_features", record.cls_features, len(images), 2)
    if record.grid is not None and record.grid.shape[1] != 2:  # noqa: PLR2004 - row, column
        raise PluginError(f"{title}: grid has a row and a column for each token")


def _check_rows(what: str, values: object, rows: int, axes: int) -> None:
    if values is None:
        return
    if (
        not isinstance(values, torch.Tensor)
        or values.ndim != axes
        or values.shape[0] != rows
        or values.is_complex()
    ):
        raise PluginError(f"{what} must be a tensor of {rows} rows, got {described(values)}")
