"""Model families: where things are in a model. No scoring math is here.

Not here: what is done with a signal (``strategies``), and what is refused for every family (when a
session begins in ``core/engine/session.py``, of a prompt in ``core/engine/decoder/prompt.py``).
"""

from __future__ import annotations

from tokensieve.adapters.internvl import InternVLAdapter
from tokensieve.adapters.llava import LlavaAdapter
from tokensieve.adapters.llava_pixtral import LlavaPixtralAdapter
from tokensieve.adapters.qwen_vl import QwenVLAdapter
from tokensieve.adapters.timm_vit import TimmVitAdapter
from tokensieve.adapters.zoo import EXAMPLES, MODELS, STUDIES
from tokensieve.adapters.zoo.study_tasks import TASKS
from tokensieve.plugin import Registry, hookimpl


@hookimpl
def tokensieve_register(registry: Registry) -> None:
    """Add the built-in adapters, trained models, tasks, studies and an example picture."""
    registry.add(InternVLAdapter)
    registry.add(LlavaAdapter)
    registry.add(LlavaPixtralAdapter)
    registry.add(QwenVLAdapter)
    registry.add(TimmVitAdapter)
    for task in TASKS:
        registry.add(task)
    for name, folder in MODELS.items():
        registry.add_model(name, folder)
    registry.add_studies(STUDIES)
    for name, (image, question) in EXAMPLES.items():
        registry.add_example(name, image, question)
