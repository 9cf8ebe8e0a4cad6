"""Hugging Face ids without a network: the hub is asked once, and for a few seconds at most.

Its own client, and transformers on top of it, try again for half a minute per file.
"""

from __future__ import annotations

import importlib
import os
import threading
import time

from tokensieve.core.errors import ModelError
from tokensieve.core.foreign import reason, shown

SECONDS = 2.5  # for an answer, whatever it is
REMEMBERED = 60.0  # seconds that an answer counts
WANTED = "config.json"  # every model has one

_asked: dict[str, tuple[float, str]] = {}


def only_local(where: str) -> bool:
    """Whether a model has to be read from this machine: a folder, or a copy in the hub's cache.

    Raises:
        ModelError: it is an id, the hub does not answer, and there is no copy.
    """
    if os.path.isdir(where):
        return True
    silence = unreachable()
    if not silence:
        return False
    hub = importlib.import_module("huggingface_hub")
    try:
        copy = hub.try_to_load_from_cache(where, WANTED)
    except Exception:  # no id that the hub could have: whoever loads it says why
        return True
    if not isinstance(copy, str):
        raise ModelError(
            f"model {shown(where)} is not in the cache of Hugging Face, and its hub cannot be "
            f"asked ({silence}): connect to the network, or give a local folder"
        )
    return True


def unreachable() -> str:
    """The reason why the hub cannot be asked; empty if it answers."""
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    place = str(constants.ENDPOINT)
    when, said = _asked.get(place, (-REMEMBERED, ""))
    if time.monotonic() - when > REMEMBERED:
        said = _ask(place)
        _asked[place] = time.monotonic(), said
    return said


def _ask(place: str) -> str:
    """Ask the hub in a thread: no time limit reaches the look-up of names."""
    answer = [f"{place} does not answer within {SECONDS:g} seconds"]

    def ask() -> None:
        try:
            session = importlib.import_module("huggingface_hub.utils").get_session()
            session.head(place, timeout=SECONDS)
            answer[0] = ""
        except Exception as error:
            answer[0] = f"{place}: {reason(error)}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answer[0]
