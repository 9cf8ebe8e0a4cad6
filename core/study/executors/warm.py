"""Imported by the process that workers are copied from: what every one of them will need."""

from __future__ import annotations

import importlib

LIBRARIES = (
    "torchvision",
    "transformers.modeling_utils",
    "transformers.processing_utils",
    "transformers.image_processing_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "tokensieve.core.study.executors.serving",
)
for library in LIBRARIES:
    importlib.import_module(library)
