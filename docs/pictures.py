"""Draw the pictures of the documentation: ``python docs/pictures.py`` writes ``docs/images``.

The decoder in the picture is the preset ``transprune`` on LLaVA-1.5-7B; its numbers of tokens come
from the pipeline itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from drawing import LEFT_NOTE, MONOSPACE, SOFT, Box, Paint, Sheet, Style
from room_picture import draw_rooms

import tokensieve
from tokensieve.core.models.sizes import SIZES

IMAGES = Path(__file__).parent / "images"

MODEL = Paint("#eef0f3", "#9aa3ad")
CORE = Paint("#dbe8fb", "#3b6fc4")
STRATEGY = Paint("#fde3cf", "#cf6a1b")
ADAPTER = Paint("#d9f0dd", "#2f8a44")
TEXT_TOKENS = Paint("#c9ced5")
DETAIL = Paint("#f8fafd", "#3b6fc4")
TEXT_HEIGHT = 16

CARDS = (
    (190, ADAPTER, "signals", ("of encoder and decoder:", "hidden, transitions,",
     "text and vision attention,", "keys, grid, ...: those", "that some stage needs")),
    (178, STRATEGY, "scorers", ("signals →", "one number per token,", "[batch, tokens];",
     "normalized, weighted,", "added")),
    (158, STRATEGY, "selector", ("importances + budget", "→ which stay", "", "ties: lowest index")),
    (168, STRATEGY, "merger", ("at b=0 only: the others", "are averaged into few",
     "vectors and projected;", "else they are dropped")),
    (158, CORE, "reduction", ("surviving row indices", "per sample, and the", "vectors to write;",
     "samples padded left")),
    (188, CORE, "applied to all rows", ("hidden states", "rotary embeddings", "attention mask",
     "origin (→ trace)", "earlier transitions")),
)  # fmt: skip


@dataclass(frozen=True)
class Decoder:
    """The decoder on the sheet: one column per layer, height by visual tokens."""

    box: Box
    boundaries: tuple[int, ...]
    layers: tuple[int, ...]

    @classmethod
    def transprune(cls, box: Box) -> Decoder:
        """The preset on LLaVA-1.5-7B."""
        size, pipeline = SIZES["llava-1.5-7b"], tokensieve.load_pipeline("transprune")
        schedule = pipeline.schedule(size.dims)
        layers = schedule.per_layer(size.visual_tokens, schedule.counts(size.visual_tokens))
        return cls(box, tuple(pipeline.boundaries(size.dims.layers)), tuple(layers))

    def x(self, boundary: int) -> float:
        """Left edge of layer ``boundary``."""
        return self.box.left + self.box.width * boundary / len(self.layers)

    def y(self, tokens: int) -> float:
        """Top edge of a column of ``tokens`` visual tokens."""
        height = self.box.height - TEXT_HEIGHT
        return self.box.bottom - TEXT_HEIGHT - height * tokens / self.layers[0]

    def column(self, first: int, last: int) -> Box:
        """The layers ``first .. last - 1``, which have equally many tokens."""
        top = self.y(self.layers[first])
        return Box(self.x(first), top, self.x(last) - self.x(first), self.box.bottom - top)


def architecture() -> str:
    """From ``generate`` to the rows that every layer sees, and one boundary in detail."""
    sheet = Sheet(1280, 840, "How tokensieve reduces visual tokens while a model runs")
    decoder = Decoder.transprune(Box(470, 164, 600, 231))
    draw_inputs(sheet)
    draw_decoder(sheet, decoder)
    draw_boundaries(sheet, decoder)
    draw_outputs(sheet, decoder)
    draw_detail(sheet, decoder)
    draw_legend(sheet)
    return sheet.svg()


def draw_inputs(sheet: Sheet) -> None:
    """What runs before the decoder."""
    sheet.area(Box(20, 20, 1240, 52), MODEL)
    about = "or forward, or any Hugging Face entry point: the model's own code, called as always"
    sheet.label((40, 52), "model.generate(**inputs)", about, font=MONOSPACE)
    sheet.card(Box(44, 164, 76, 74), MODEL, "image", "pixels")
    sheet.card(Box(44, 321, 76, 74), MODEL, "prompt", "input_ids")
    sheet.card(Box(142, 140, 138, 122), MODEL, "vision encoder")
    sheet.card(Box(310, 140, 120, 122), MODEL, "projector")
    signal = Style(size=13, color=ADAPTER.edge)
    sheet.lines((211, 190), ["attention, keys,", "features"], signal)
    sheet.lines((370, 190), ["its input:", "one row a patch"], signal)
    sheet.arrow((30, 72), (30, 358), (42, 358))
    sheet.arrow((30, 201), (42, 201))
    sheet.arrow((120, 201), (140, 201))
    sheet.arrow((280, 201), (308, 201))
    sheet.arrow((430, 201), (468, 201))
    sheet.arrow((120, 387), (468, 387))
    sheet.text((290, 378), "text tokens")


def draw_decoder(sheet: Sheet, decoder: Decoder) -> None:
    """Every layer as a column whose height is its number of visual tokens."""
    about = "preset transprune on LLaVA-1.5-7B; height of a layer: its visual tokens"
    sheet.label((decoder.box.left, 112), "decoder layers", about)
    for first, last in pairwise((0, *decoder.boundaries, len(decoder.layers))):
        column = decoder.column(first, last)
        text = Box(column.left, column.bottom - TEXT_HEIGHT, column.width, TEXT_HEIGHT)
        sheet.area(column, MODEL, radius=0)
        sheet.area(text, TEXT_TOKENS, radius=0)
        count = str(decoder.layers[first])
        sheet.text((column.center, column.top - 8), count, Style(size=14, bold=True))
    for layer in range(len(decoder.layers)):
        column = decoder.column(layer, layer + 1)
        sheet.line((column.left, column.top), (column.left, column.bottom))
    label = Style(size=12, color=SOFT)
    sheet.text((decoder.x(22), decoder.box.bottom - 4), "text tokens: never removed", label)


def draw_boundaries(sheet: Sheet, decoder: Decoder) -> None:
    """The boundaries of the pipeline, and boundary 0."""
    bottom = decoder.box.bottom
    for boundary in (0, *decoder.boundaries):
        place, used = decoder.x(boundary), boundary in decoder.boundaries
        sheet.line((place, 128), (place, bottom + 12), CORE.edge, "" if used else "3 4")
        style = Style(size=14, color=CORE.edge, bold=used)
        sheet.text((place, bottom + 29), f"b={boundary}", style)
    words = (
        "at a boundary a pre-hook of the next layer shortens",
        "what the layer is called with; its KV cache then",
        "simply holds fewer rows and reports the logical length",
    )
    start = decoder.x(decoder.boundaries[-1]) + 20
    sheet.lines((start, 182), words, Style(size=13, color=CORE.edge, anchor="start"))


def draw_outputs(sheet: Sheet, decoder: Decoder) -> None:
    """What the caller gets."""
    sheet.card(
        Box(1118, 226, 142, 170), MODEL, "norm, LM head",
        "logits: one row", "per input token;", "dropped rows zero",
    )  # fmt: skip
    sheet.lines((1189, 345), ["ids start with the", "caller's prompt"])
    sheet.arrow((decoder.box.right, 352), (1116, 352))


def draw_detail(sheet: Sheet, decoder: Decoder) -> None:
    """What happens at one boundary."""
    frame = Box(20, 480, 1240, 300)
    top = (decoder.x(decoder.boundaries[1]), decoder.box.bottom + 36)
    sheet.polygon([top, (frame.left, frame.top), (frame.right, frame.top)], "#f3f7fe")
    sheet.area(frame, DETAIL, radius=10)
    about = "decided once per prefill, in float32, every image by itself, then applied to anything"
    sheet.label((262, frame.top + 32), "at one boundary", about)
    row, left = frame.top + 58, frame.left + 20
    for width, paint, name, words in CARDS:
        if left > frame.left + 20:
            sheet.arrow((left - 32, row + 74), (left - 2, row + 74))
        sheet.card(Box(left, row, width, 148), paint, name, *words, dashed=name == "merger")
        left += width + 32
    sheet.label(
        (40, row + 190), "positions",
        "keep: survivors keep their (M-)RoPE positions;  "
        "reindex: contiguous again in every segment of layers",
    )  # fmt: skip
    sheet.label(
        (40, row + 218), "later layers",
        "get the shortened arguments; at the end the decoder's output is scattered back to one "
        "row per input token",
    )  # fmt: skip
    way = ((211, 262), (211, 470), (135, 470), (135, row - 2))
    sheet.arrow(*way, color=ADAPTER.edge, dashed=True)


def draw_legend(sheet: Sheet) -> None:
    """What the colors mean."""
    left = 40
    for paint, words, width in (
        (MODEL, "the model, unmodified", 224),
        (ADAPTER, "adapters/: where things are in a family", 334),
        (STRATEGY, "strategies/: what to keep", 254),
        (CORE, "core/: hooks, index algebra, cache", 304),
    ):
        sheet.area(Box(left, 804, 22, 16), paint, radius=3)
        sheet.text((left + 32, 817), words, LEFT_NOTE)
        left += width


PICTURES = {"architecture.svg": architecture, "rooms.svg": draw_rooms}


def main() -> None:
    """Write all pictures."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
