"""A verdict, and the words and signs for what kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["yes", "no", "mixed", "none"]
KINDS: dict[Kind, str] = {"yes": "yes", "no": "no", "mixed": "in part", "none": "no evidence"}
SIGNS: dict[Kind, str] = {
    "yes": "\N{CHECK MARK}",
    "no": "\N{MULTIPLICATION X}",
    "mixed": "\N{ALMOST EQUAL TO}",
    "none": "\N{WHITE CIRCLE}",
}


@dataclass(frozen=True)
class Verdict:
    """A sentence made from numbers.

    ``kind``: the evidence is for it, against it, goes both ways, or there is none.
    """

    topic: str
    kind: Kind
    text: str
