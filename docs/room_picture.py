"""The picture of the rooms of ``core`` and of the arrows between them, for ``docs/pictures.py``.

Rows and arrows are read off the imports: a room's row is one above the highest room that it
imports. Columns and words are chosen here; a room that has none is part of the room around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import TopologicalSorter
from typing import NamedTuple

import rooms
from drawing import LEFT_NOTE, Box, Paint, Point, Sheet, Style

GROUND = Paint("#eef0f3", "#9aa3ad")
PLUGINS = Paint("#fde3cf", "#cf6a1b")
MODEL = Paint("#dbe8fb", "#3b6fc4")
STUDY = Paint("#d9f0dd", "#2f8a44")
LEGEND = (
    (GROUND, "files, texts, errors"),
    (PLUGINS, "what plugins meet"),
    (MODEL, "one pipeline on one model"),
    (STUDY, "studies and their reports"),
)
LEFT, TOP, STEP_X, STEP_Y = 40, 96, 100, 80
CARD_WIDTH, CARD_HEIGHT = 178, 46
WORD = Style(size=12, color="#5b646e")
NAME = Style(size=14, bold=True)


class Place(NamedTuple):
    """The column of a room, counted in half cards, and what its card says."""

    column: float
    paint: Paint
    words: str


PLACES = {
    "core": Place(5, GROUND, "errors, units, lazy imports"),
    "core/files": Place(4, GROUND, "read strictly, written whole"),
    "core/templates": Place(6, GROUND, "chat templates, metered"),
    "core/output": Place(0, GROUND, "terminal, streams, signals"),
    "core/contract": Place(7, PLUGINS, "what plugins are written to"),
    "core/plugins": Place(6, PLUGINS, "discovery, registry"),
    "core/gate": Place(8, PLUGINS, "every answer is checked"),
    "core/models": Place(6, MODEL, "found, loaded, adapted"),
    "core/pipeline": Place(8, MODEL, "YAML, stages, budgets"),
    "core/engine": Place(5, MODEL, "decide, then reduce"),
    "core/study/lmms": Place(7, STUDY, "benchmarks of lmms-eval"),
    "core/study/spec": Place(9, STUDY, "a study's file"),
    "core/testing": Place(2.7, PLUGINS, "conformance suite, oracle"),
    "core/engine/decoder": Place(0.8, MODEL, "prompt, cache, positions"),
    "core/engine/encoder": Place(7, MODEL, "blocks of a ViT"),
    "core/run": Place(5, MODEL, "one question, one picture"),
    "core/bench": Place(0, MODEL, "is it faster here?"),
    "core/study/plan": Place(8, STUDY, "cells and their keys"),
    "core/study/store": Place(7, STUDY, "results on disk"),
    "core/report": Place(4, STUDY, "verdicts, tables, figures"),
    "core/study/progress": Place(8, STUDY, "how long, how far"),
    "core/study/work": Place(6, STUDY, "one cell to its result"),
    "core/study/executors": Place(7, STUDY, "processes, Ray, Slurm"),
    "core/study": Place(8, STUDY, "runs what is missing"),
    "core/cli": Place(3, GROUND, "the command line"),
}

BENDS = {("core/study/store", "core/output"): ("core/testing", "core/run")}
"""Long arrows, and the two cards between which they pass."""
OURS = (("strategies/", "what to keep"), ("adapters/", "where things are"))


def placed(room: str) -> str:
    """The card that shows a room: its own, or that of the room around it.

    Raises:
        LookupError: there is none.
    """
    if room in PLACES:
        return room
    around = room.rpartition("/")[0]
    if around in ("", "core"):
        raise LookupError(f"{room} has no place in the picture: add it to docs/room_picture.py")
    return placed(around)


def uses() -> dict[str, set[str]]:
    """What each card imports, the lowest first."""
    found: dict[str, set[str]] = {placed(room): set() for floor in rooms.FLOORS for room in floor}
    for start, end in rooms.within_core():
        if placed(start) != placed(end):
            found[placed(start)].add(placed(end))
    order = TopologicalSorter({card: sorted(lower) for card, lower in found.items()})
    return {card: found[card] for card in order.static_order()}


def rows(graph: dict[str, set[str]]) -> dict[str, int]:
    """The row of each card: one above the highest that it imports."""
    found: dict[str, int] = {}
    for card, lower in graph.items():
        found[card] = max((found[end] + 1 for end in lower), default=0)
    return found


def direct(graph: dict[str, set[str]]) -> Iterator[rooms.Arrow]:
    """The arrows that no way over other cards replaces (the transitive reduction)."""
    reached: dict[str, set[str]] = {}
    for card, lower in graph.items():
        beyond: set[str] = set().union(*(reached[end] for end in lower))
        reached[card] = lower | beyond
        yield from ((card, end) for end in sorted(lower - beyond))


def draw_rooms() -> str:
    """The rooms of ``core`` with what each imports, from the command line to the ground."""
    graph = uses()
    boxes = cards(rows(graph))
    bottom = boxes["core"].bottom
    sheet = Sheet(1310, round(bottom) + 84, "The rooms of core and what each imports")
    sheet.label((40, 40), "core/", "an arrow goes from a room to a room that it imports")
    about = "left out is what a way over other rooms says already; no arrow goes up"
    sheet.text((40, 62), about, LEFT_NOTE)
    arrows = list(direct(graph))
    for start, end in arrows:
        sheet.arrow(
            (port(start, [e for s, e in arrows if s == start], end, boxes), boxes[start].bottom),
            *bends(BENDS.get((start, end)), boxes),
            (port(end, [s for s, e in arrows if e == end], start, boxes), boxes[end].top),
            color=PLACES[start].paint.edge,
        )
    for room, box in boxes.items():
        draw_card(sheet, box, PLACES[room].paint, room.removeprefix("core/"), PLACES[room].words)
    draw_plugins(sheet, boxes["core/contract"])
    left = 40.0
    for paint, words in LEGEND:
        sheet.area(Box(left, bottom + 48, 22, 16), paint, radius=3)
        sheet.text((left + 32, bottom + 61), words, LEFT_NOTE)
        left += 230
    return sheet.svg()


def cards(heights: dict[str, int]) -> dict[str, Box]:
    """Where the card of each room is.

    Raises:
        LookupError: a card covers another one.
    """
    top, boxes = max(heights.values()), dict[str, Box]()
    for room, height in heights.items():
        left, level = LEFT + STEP_X * PLACES[room].column, TOP + STEP_Y * (top - height)
        for other, box in boxes.items():
            if box.top == level and abs(box.left - left) < CARD_WIDTH:
                raise LookupError(f"{room} covers {other}: move one in docs/room_picture.py")
        boxes[room] = Box(left, level, CARD_WIDTH, CARD_HEIGHT)
    return boxes


def bends(past: tuple[str, str] | None, boxes: dict[str, Box]) -> list[Point]:
    """The two points by which an arrow goes between the cards of two neighbors."""
    if past is None:
        return []
    left, right = (boxes[room] for room in past)
    middle = (left.right + right.left) / 2
    return [(middle, left.top), (middle, left.bottom)]


def draw_card(sheet: Sheet, box: Box, paint: Paint, name: str, words: str) -> None:
    """A room: its name and what it is for."""
    sheet.area(box, paint)
    sheet.text((box.center, box.top + 19), name, NAME)
    sheet.text((box.center, box.top + 36), words, WORD)


def draw_plugins(sheet: Sheet, contract: Box) -> None:
    """Strategies and adapters, which come through the door of all plugins."""
    frame = Box(1070, contract.top - 10, 200, 150)
    sheet.area(frame, Paint("#ffffff", PLUGINS.edge), radius=10, dashed=True)
    sheet.text((frame.center, frame.top + 24), "plugins, ours too", NAME)
    for number, (name, words) in enumerate(OURS):
        box = Box(frame.left + 11, frame.top + 36 + 54 * number, CARD_WIDTH, CARD_HEIGHT)
        draw_card(sheet, box, PLUGINS, name, words)
    level = contract.top + CARD_HEIGHT / 2
    sheet.arrow((frame.left, level), (contract.right, level), color=PLUGINS.edge, dashed=True)
    note = Style(size=12, color=PLUGINS.edge)
    sheet.text(((frame.left + contract.right) / 2, level - 8), "tokensieve.plugin", note)


def port(room: str, others: list[str], other: str, boxes: dict[str, Box]) -> float:
    """Where on the edge of a room's card the arrow from or to ``other`` is."""
    order = sorted(others, key=lambda name: boxes[name].center)
    return boxes[room].left + boxes[room].width * (order.index(other) + 1) / (len(order) + 1)
