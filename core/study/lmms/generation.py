"""A benchmark's wishes for generated answers: its ``generation_kwargs`` for ``generate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LENGTHS = ("max_new_tokens", "max_gen_toks")
SAMPLING = ("temperature", "top_p", "top_k")
SEARCH = ("num_beams", "min_new_tokens", "repetition_penalty", "length_penalty",
          "no_repeat_ngram_size")  # fmt: skip
OURS = ("max_agentic_steps",)  # lmms-eval's own loop reads it


@dataclass(frozen=True)
class Generation:
    """Arguments of ``generate``, where an answer ends, and keys that no model of ours knows."""

    options: Mapping[str, Any]
    until: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def beams(self) -> int:
        """Copies of every prompt in the prefill."""
        return int(self.options["num_beams"])

    def cut(self, text: str) -> str:
        """The answer up to the first stop text; space before the answer ends nothing."""
        text = text.strip()
        places = [text.find(stop) for stop in self.until]
        ends = [place for place in places if place >= 0]
        return text[: min(ends)].strip() if ends else text


def read_generation(given: Mapping[str, Any] | None, max_new_tokens: int) -> Generation:
    """The benchmark's own length counts; ``max_new_tokens`` is for those that state none.

    Temperature 0 means greedy. ``do_sample`` has the last word; without it a temperature above 0
    asks for sampling, as in lmms-eval's models.
    """
    wanted = {key: value for key, value in (given or {}).items() if value is not None}
    temperature = float(wanted.get("temperature", 1.0 if wanted.get("do_sample") else 0.0))
    sample = bool(wanted.get("do_sample", temperature > 0)) and temperature > 0
    lengths = [int(wanted[key]) for key in LENGTHS if key in wanted]
    options: dict[str, Any] = {
        "num_beams": 1,
        **{key: wanted[key] for key in SEARCH if key in wanted},
        "max_new_tokens": lengths[0] if lengths else max_new_tokens,
        "do_sample": sample,
    }
    if sample:
        options |= {key: wanted[key] for key in SAMPLING if key in wanted}
    known = {*LENGTHS, *SAMPLING, *SEARCH, *OURS, "do_sample", "until", "stop_sequences"}
    stops = [*_texts(wanted.get("until")), *_texts(wanted.get("stop_sequences"))]
    return Generation(options, tuple(stops), tuple(sorted(set(wanted) - known)))


def _texts(value: Any) -> list[str]:
    """One text, or those of a list."""
    given = [value] if isinstance(value, str) else list(value or ())
    return [str(text) for text in given if text]
