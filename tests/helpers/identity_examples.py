"""Examples that differ in one thing, and values that nothing can be compared by."""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

from tokensieve.core.contract.tasks import Box, Example

GRAY = Image.new("RGB", (4, 4), (90, 90, 90))


@dataclass(frozen=True)
class Wide(Example):
    """What a plugin's task may give."""

    answers: tuple[str, ...] = ()
    extra: Any = None


@dataclass(frozen=True)
class Late(Example):
    """A field that is not given."""

    rule: str = field(default="exact", init=False)


class Loose(Example):
    """Attributes that no field says."""

    def __init__(self, weight: Any) -> None:
        super().__init__("1", (GRAY,), "?", "a")
        object.__setattr__(self, "weight", weight)


class Slots(Example):
    """Attributes in slots, one of them private to the class."""

    __slots__ = ("__secret", "shown")

    def __init__(self, secret: Any, shown: Any = 0) -> None:
        super().__init__("1", (GRAY,), "?", "a")
        object.__setattr__(self, "_Slots__secret", secret)
        object.__setattr__(self, "shown", shown)


class Quiet(Wide):
    """Pickles itself without its answers."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "answers"}


class Terse(Wide):
    """Says nothing of itself."""

    def __repr__(self) -> str:
        return "Terse()"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Numbers(list[Any]):
    """A list that knows more."""

    def __init__(self, unit: str) -> None:
        super().__init__([1, 2])
        self.unit = unit


class Text(str):
    language = ""


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Rule(BaseModel):
    limit: float = 0.5
    _hidden: int = 0


def wide(**changes: Any) -> Wide:
    given_: dict[str, Any] = {"id": "1", "images": (GRAY,), "question": "?", "answer": "a"}
    return Wide(**{**given_, **changes})


def extra(value: Any) -> Wide:
    return wide(extra=value)


def picture(mode: str = "RGB", value: Any = 0, size: tuple[int, int] = (4, 4), **info: Any) -> Wide:
    image = Image.new(mode, size, value)
    image.info.update(info)
    return wide(images=(image,))


def palette(colors: list[int]) -> Wide:
    image = Image.new("P", (4, 4))
    image.putpalette(colors)
    return wide(images=(image,))


def turned(turn: int) -> Wide:
    image = Image.new("RGB", (4, 2))
    image.getexif()[274] = turn
    return wide(images=(image,))


def added(name: str, value: Any) -> Wide:
    example = wide()
    object.__setattr__(example, name, value)
    return example


def private(value: int) -> Rule:
    rule = Rule()
    rule._hidden = value
    return rule


def spoken(language: str) -> Text:
    text = Text("a")
    text.language = language
    return text


def later(value: str) -> Late:
    example = Late("1", (GRAY,), "?", "a")
    object.__setattr__(example, "rule", value)
    return example


DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "id": (wide, lambda: wide(id="2")),
    "kind of id": (lambda: wide(id="1"), lambda: wide(id=1)),
    "question": (wide, lambda: wide(question="!")),
    "space in a question": (wide, lambda: wide(question="? ")),
    "answer": (wide, lambda: wide(answer="A")),
    "form of an answer": (lambda: wide(answer="\u00e9"), lambda: wide(answer="e\u0301")),
    "answer and question swapped": (
        lambda: wide(question="a", answer="b"), lambda: wide(question="b", answer="a")),
    "text moved between fields": (
        lambda: wide(question="ab", answer="c"), lambda: wide(question="a", answer="bc")),
    "answers widened": (lambda: wide(answers=("a",)), lambda: wide(answers=("a", "b"))),
    "answers in another order": (
        lambda: wide(answers=("a", "b")), lambda: wide(answers=("b", "a"))),
    "answers joined": (lambda: wide(answers=("ab",)), lambda: wide(answers=("a", "b"))),
    "answers as a list": (lambda: wide(answers=("a",)), lambda: wide(answers=["a"])),
    "box": (lambda: wide(boxes=((Box(0, 0, 1, 1),),)), lambda: wide(boxes=((Box(0, 0, 1, 0.5),),))),
    "box of another picture": (
        lambda: wide(boxes=((Box(0, 0, 1, 1),), ())), lambda: wide(boxes=((), (Box(0, 0, 1, 1),)))),
    "no boxes": (lambda: wide(boxes=((),)), wide),
    "a picture more": (wide, lambda: wide(images=(GRAY, GRAY))),
    "no picture": (wide, lambda: wide(images=())),
    "pixels": (picture, lambda: picture(value=(0, 0, 1))),
    "size": (picture, lambda: picture(size=(2, 8))),
    "mode": (lambda: picture("L"), lambda: picture("P")),
    "palette": (lambda: palette([0, 0, 0]), lambda: palette([9, 9, 9])),
    "alpha": (lambda: picture("RGBA", (0, 0, 0, 0)), lambda: picture("RGBA", (0, 0, 0, 255))),
    "transparent colour": (picture, lambda: picture(transparency=(0, 0, 0))),
    "metadata": (picture, lambda: picture(comment="left")),
    "turned by metadata": (lambda: turned(1), lambda: turned(6)),
    "mirrored by metadata": (lambda: turned(1), lambda: turned(2)),
    "field of a subclass": (lambda: extra(1), lambda: extra(2)),
    "whole number and fraction": (lambda: extra(1), lambda: extra(1.0)),
    "truth and number": (lambda: extra(1), lambda: extra(True)),
    "text and number": (lambda: extra("1"), lambda: extra(1)),
    "text and bytes": (lambda: extra("1"), lambda: extra(b"1")),
    "nothing and empty": (lambda: extra(None), lambda: extra("")),
    "minus zero": (lambda: extra(0.0), lambda: extra(-0.0)),
    "last bit": (lambda: extra(0.1), lambda: extra(0.1 + 2**-56)),
    "NaN": (lambda: extra(float("nan")), lambda: extra(float("inf"))),
    "complex": (lambda: extra(1j), lambda: extra(-1j)),
    "long number": (lambda: extra(10**6000), lambda: extra(10**6000 + 1)),
    "lone surrogate": (lambda: extra("\ud800"), lambda: extra("\ud801")),
    "nested list": (lambda: extra([[1], [2]]), lambda: extra([[1, 2], []])),
    "list and tuple": (lambda: extra([1]), lambda: extra((1,))),
    "mapping": (lambda: extra({"a": 1}), lambda: extra({"a": 2})),
    "key of a mapping": (lambda: extra({"a": 1}), lambda: extra({"b": 1})),
    "kind of a key": (lambda: extra({1: 1}), lambda: extra({"1": 1})),
    "order of a mapping": (lambda: extra({"a": 1, "b": 2}), lambda: extra({"b": 2, "a": 1})),
    "set": (lambda: extra({1}), lambda: extra({1, 2})),
    "set and frozenset": (lambda: extra({1}), lambda: extra(frozenset({1}))),
    "deque": (lambda: extra(deque([1])), lambda: extra(deque([2]))),
    "ordered mapping": (lambda: extra(OrderedDict(a=1)), lambda: extra(OrderedDict(a=2))),
    "mapping with a default": (
        lambda: extra(defaultdict(list, a=[1])), lambda: extra(defaultdict(list, a=[2]))),
    "array": (lambda: extra(np.arange(3)), lambda: extra(np.arange(1, 4))),
    "type of an array": (
        lambda: extra(np.zeros(2, np.float32)), lambda: extra(np.zeros(2, np.int32))),
    "shape of an array": (lambda: extra(np.zeros((2, 3))), lambda: extra(np.zeros((3, 2)))),
    "array of objects": (
        lambda: extra(np.array(["a", None])), lambda: extra(np.array(["b", None]))),
    "middle of a long array": (
        lambda: extra(np.zeros(5000)), lambda: extra(np.eye(1, 5000, 2500)[0])),
    "date": (lambda: extra(date(2026, 1, 1)), lambda: extra(date(2026, 1, 2))),
    "digits of a decimal": (lambda: extra(Decimal("1.0")), lambda: extra(Decimal("1.00"))),
    "ratio": (lambda: extra(Fraction(1, 3)), lambda: extra(Fraction(1, 4))),
    "pattern": (lambda: extra(re.compile("a")), lambda: extra(re.compile("b"))),
    "flags of a pattern": (lambda: extra(re.compile("a")), lambda: extra(re.compile("a", re.I))),
    "enumeration": (lambda: extra(Color.RED), lambda: extra(Color.BLUE)),
    "model": (lambda: extra(Rule()), lambda: extra(Rule(limit=0.6))),
    "private part of a model": (lambda: extra(private(0)), lambda: extra(private(1))),
    "plain object": (
        lambda: extra(SimpleNamespace(a=1)), lambda: extra(SimpleNamespace(a=2))),
    "another class": (lambda: extra(SimpleNamespace(a=1)), lambda: extra({"a": 1})),
    "range": (lambda: extra(range(3)), lambda: extra(range(4))),
    "named function": (lambda: extra(len), lambda: extra(max)),
    "picture in a field": (lambda: extra(GRAY), lambda: extra(GRAY.point(lambda v: v + 1))),
    "example in a field": (lambda: extra(wide()), lambda: extra(wide(answer="b"))),
    "attribute of a list": (lambda: extra(Numbers("m")), lambda: extra(Numbers("km"))),
    "attribute of a text": (lambda: extra(spoken("de")), lambda: extra(spoken("en"))),
    "attribute that is added": (wide, lambda: added("weight", 1)),
    "value of an added attribute": (lambda: added("weight", 1), lambda: added("weight", 2)),
    "private attribute": (lambda: added("_weight", 1), lambda: added("_weight", 2)),
    "attribute without a field": (lambda: Loose(1), lambda: Loose(2)),
    "slot": (lambda: Slots(1, 1), lambda: Slots(1, 2)),
    "private slot": (lambda: Slots(1), lambda: Slots(2)),
    "field that is not given": (lambda: later("exact"), lambda: later("near")),
    "left out of its pickle": (
        lambda: Quiet("1", (), "?", "a", (), ("a",)), lambda: Quiet("1", (), "?", "a", (), ("b",))),
    "silent and equal to all": (
        lambda: Terse("1", (), "?", "a", (), ("a",)), lambda: Terse("1", (), "?", "a", (), ("b",))),
    "class of an example": (lambda: Wide("1", (), "?", "a"), lambda: Example("1", (), "?", "a")),
}  # fmt: skip


def loop() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


class Refusing:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("no\nand more")


def nested() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


NOT_COMPARED: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: 1,
    "function of a function": nested,
    "generator": lambda: (n for n in [1]),
    "open file": lambda: open(__file__),
    "lock": lambda: __import__("threading").Lock(),
    "memory": lambda: memoryview(b"x"),
    "path": lambda: Path("answers.txt"),
    "list that holds itself": loop,
    "5,000 lists": deep,
    "module": lambda: re,
    "object that refuses": Refusing,
    "in a list": lambda: [1, [lambda: 2]],
    "in a mapping": lambda: {"a": lambda: 2},
    "as a key": lambda: {(lambda: 2): 1},
    "in a set": lambda: {lambda: 2},
    "in an object": lambda: SimpleNamespace(a=lambda: 2),
    "in an array": lambda: np.array([lambda: 2, 1]),
    "class of a function": lambda: type("Free", (), {}),
}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
