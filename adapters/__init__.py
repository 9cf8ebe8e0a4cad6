"""Model families: where things are in a model. No scoring maths lives here."""

from __future__ import annotations

from tokensieve.adapters.internvl import InternVLAdapter
from tokensieve.adapters.llava import LlavaAdapter
from tokensieve.adapters.qwen_vl import QwenVLAdapter
from tokensieve.adapters.timm_vit import TimmVitAdapter
from tokensieve.adapters.zoo import EXAMPLES, MODELS
from tokensieve.adapters.zoo.study_tasks import DigitsTask
from tokensieve.core.plugins import Registry, hookimpl


@hookimpl
def tokensieve_register(registry: Registry) -> None:
    """Add the built-in adapters, the built-in trained models, tasks and an example picture."""
    registry.add(InternVLAdapter)
    registry.add(LlavaAdapter)
    registry.add(QwenVLAdapter)
    registry.add(TimmVitAdapter)
    registry.add(DigitsTask)
    for name, folder in MODELS.items():
        registry.add_model(name, folder)
    for name, (image, question) in EXAMPLES.items():
        registry.add_example(name, image, question)
