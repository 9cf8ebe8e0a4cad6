"""The entry that lmms-eval finds in the group ``lmms_eval.models``."""

from __future__ import annotations

import importlib
from typing import Any

MODEL = "tokensieve"
CLASS = "tokensieve.core.study.work.lmms_model.TokensieveModel"


def manifest() -> Any:
    """The ``ModelManifest`` of ``lmms-eval --model tokensieve``; lmms-eval calls this."""
    registry: Any = importlib.import_module("lmms_eval.models.registry_v2")
    return registry.ModelManifest(model_id=MODEL, chat_class_path=CLASS)
