"""Prompts from chat templates: a template is a stranger's program, so its steps are counted.

The language and the variables are those of transformers, whose rendering has no limit. Whatever a
template can do at length is weighed before it is done: rounds of loops, calls, texts and lists.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tokensieve.core.templates.meter import MOST_TEXT, TooMuchError, metered

if TYPE_CHECKING:
    from jinja2 import Environment, Template

MOST_SOURCE = 200_000  # characters; published templates have some thousands


def render_chat(processor: object, messages: Sequence[Mapping[str, object]]) -> str:
    """The text that asks a model to answer ``messages``, as its processor's template has it.

    Raises:
        Exception: there is no template or no Jinja; whatever the template raises; it wants more
            than a prompt needs.
    """
    source = getattr(processor, "chat_template", None)
    if isinstance(source, dict):
        source = source.get("default")
    if not isinstance(source, str):
        raise ValueError("its processor has no chat template: add chat_template.jinja")
    source = source.removeprefix("\ufeff")
    if len(source) > MOST_SOURCE:
        raise TooMuchError(f"it has {len(source):,} characters, allowed: {MOST_SOURCE:,}")
    words = getattr(getattr(processor, "tokenizer", processor), "special_tokens_map", None) or {}
    with metered():
        text = _compiled(source).render(
            **{key: _plain(value) for key, value in words.items()},
            messages=_plain(messages),
            tools=None,
            documents=None,
            add_generation_prompt=True,
        )
    if len(text) > MOST_TEXT:
        raise TooMuchError(f"it makes a prompt of more than {MOST_TEXT:,} characters")
    return text


def _plain(value: object) -> object:
    """Only what JSON holds: a template must not get at methods of anything else."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    known = value is None or type(value) in (bool, int, float)
    return value if known else str(value)


@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Jinja with its meters, imported for the first template: not every installation has Jinja."""
    try:
        importlib.import_module("jinja2")
    except ImportError:
        raise RuntimeError("chat templates need jinja2: pip install jinja2") from None
    from tokensieve.core.templates.environment import ENVIRONMENT

    return ENVIRONMENT
