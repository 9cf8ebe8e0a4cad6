"""Draw the pictures of the documentation: ``python docs/pictures.py`` writes ``docs/images``.

Plain SVG from the standard library. The decoder in the picture is the preset ``transprune`` on
LLaVA-1.5-7B; the numbers of tokens come from the pipeline itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import tokensieve
from tokensieve.core.sizes import SIZES

IMAGES = Path(__file__).parent / "images"

INK, SOFT, LINE, PAPER = "#1c2026", "#5b646e", "#aab2bb", "#ffffff"
MODEL, CORE, STRATEGY, ADAPTER = "#eef0f3", "#dbe8fb", "#fde3cf", "#d9f0dd"
EDGE = {MODEL: "#9aa3ad", CORE: "#3b6fc4", STRATEGY: "#cf6a1b", ADAPTER: "#2f8a44"}
TEXT_TOKENS = "#c9ced5"
FONT = "'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"


@dataclass
class Drawing:
    """A sheet that collects SVG elements."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 15,
        color: str = INK,
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """One line of text with its baseline at ``y``."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" '
            f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def label(self, x: float, y: float, word: str, rest: str, *, mono: bool = False) -> None:
        """A bold word and an explanation after it."""
        family = " font-family=\"Consolas, 'DejaVu Sans Mono', monospace\"" if mono else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="15" fill="{INK}">'
            f'<tspan font-weight="600"{family}>{escape(word)}</tspan>'
            f'<tspan dx="10" font-size="13" fill="{SOFT}">{escape(rest)}</tspan></text>'
        )

    def lines(
        self, x: float, y: float, words: Sequence[str], *, size: int = 14, color: str = INK,
        anchor: str = "middle", step: float = 19,
    ) -> None:  # fmt: skip
        """Lines of text below each other."""
        for number, line in enumerate(words):
            self.text(x, y + number * step, line, size=size, color=color, anchor=anchor)

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: str, *,
        edge: str | None = None, dashed: bool = False, radius: float = 6,
    ) -> None:  # fmt: skip
        """A box."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{fill}" stroke="{edge or EDGE.get(fill, LINE)}" stroke-width="1.4"{dash}/>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, title: str,
        *words: str, dashed: bool = False,
    ) -> None:  # fmt: skip
        """A box with a bold title and lines under it."""
        self.rectangle(x, y, width, height, fill, dashed=dashed)
        self.text(x + width / 2, y + 25, title, bold=True)
        self.lines(x + width / 2, y + 48, words, size=13, color=SOFT)

    def arrow(self, *points: tuple[float, float], color: str = INK, dashed: bool = False) -> None:
        """A line through ``points`` with a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"{dash} '
            'marker-end="url(#head)"/>'
        )

    def line(
        self, start: tuple[float, float], end: tuple[float, float], color: str, dash: str = ""
    ) -> None:
        """A plain line."""
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" '
            f'stroke="{color}" stroke-width="1.4"{extra}/>'
        )

    def svg(self) -> str:
        """The finished picture."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="{FONT}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" '
            f'fill="{INK}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="{PAPER}"/>\n{body}\n</svg>\n'
        )


@dataclass(frozen=True)
class Decoder:
    """Where the decoder stands on the sheet: one column per layer, height by tokens."""

    left: float
    bottom: float
    width: float
    height: float
    boundaries: tuple[int, ...]
    layers: tuple[int, ...]
    text_height: float = 16

    def x(self, boundary: int) -> float:
        """Left edge of layer ``boundary``."""
        return self.left + self.width * boundary / len(self.layers)

    def y(self, tokens: int) -> float:
        """Top edge of a column of ``tokens`` visual tokens."""
        return self.bottom - self.text_height - self.height * tokens / self.layers[0]


def architecture() -> str:
    """From ``generate`` to the rows that every layer sees, and one boundary in detail."""
    sheet = Drawing(1280, 840, "How tokensieve reduces visual tokens while a model runs")
    draw_model(sheet, decoder := transprune_decoder())
    draw_decoder(sheet, decoder)
    draw_boundary(sheet, decoder)
    draw_legend(sheet)
    return sheet.svg()


def transprune_decoder() -> Decoder:
    """The preset on LLaVA-1.5-7B."""
    size, pipeline = SIZES["llava-1.5-7b"], tokensieve.load_pipeline("transprune")
    schedule = pipeline.schedule(size.dims)
    layers = schedule.per_layer(size.visual_tokens, schedule.counts(size.visual_tokens))
    boundaries = tuple(pipeline.boundaries(size.dims.layers))
    return Decoder(470, 395, 600, 215, boundaries, tuple(layers))


def draw_model(sheet: Drawing, decoder: Decoder) -> None:
    """The untouched model around its decoder."""
    sheet.rectangle(20, 20, 1240, 52, MODEL)
    sheet.label(
        40, 52, "model.generate(**inputs)",
        "or forward, or any Hugging Face entry point: the model's own code, called as always",
        mono=True,
    )  # fmt: skip
    sheet.box(44, 164, 76, 74, MODEL, "image", "pixels")
    sheet.box(44, 321, 76, 74, MODEL, "prompt", "input_ids")
    sheet.box(142, 140, 138, 122, MODEL, "vision encoder")
    sheet.box(310, 140, 120, 122, MODEL, "projector")
    sheet.lines(211, 190, ["attention, keys,", "features"], size=13, color=EDGE[ADAPTER])
    sheet.lines(370, 190, ["its input:", "one row a patch"], size=13, color=EDGE[ADAPTER])
    sheet.arrow((30, 72), (30, 358), (42, 358))
    sheet.arrow((30, 201), (42, 201))
    sheet.arrow((120, 201), (140, 201))
    sheet.arrow((280, 201), (308, 201))
    sheet.arrow((430, 201), (468, 201))
    sheet.arrow((120, 387), (468, 387))
    sheet.text(290, 378, "text tokens", size=13, color=SOFT)
    right = decoder.left + decoder.width
    sheet.box(1118, 226, 142, 170, MODEL, "norm, LM head")
    sheet.lines(1189, 276, ["logits: one row", "per input token;", "dropped rows zero"], size=13, color=SOFT)
    sheet.lines(1189, 345, ["ids start with the", "caller's prompt"], size=13, color=SOFT)
    sheet.arrow((right, 352), (1116, 352))


def draw_decoder(sheet: Drawing, decoder: Decoder) -> None:
    """Every layer as a column whose height is its number of visual tokens."""
    edges = (0, *decoder.boundaries, len(decoder.layers))
    about = "preset transprune on LLaVA-1.5-7B; height of a layer: its visual tokens"
    sheet.label(decoder.left, 112, "decoder layers", about)
    for first, last in zip(edges, edges[1:], strict=False):
        tokens = decoder.layers[first]
        left, right, top = decoder.x(first), decoder.x(last), decoder.y(tokens)
        sheet.rectangle(left, top, right - left, decoder.bottom - top, MODEL, radius=0)
        sheet.rectangle(
            left, decoder.bottom - decoder.text_height, right - left, decoder.text_height,
            TEXT_TOKENS, radius=0,
        )  # fmt: skip
        sheet.text((left + right) / 2, top - 8, str(tokens), bold=True, size=14)
    for layer in range(len(decoder.layers)):
        top = decoder.y(decoder.layers[layer])
        sheet.line((decoder.x(layer), top), (decoder.x(layer), decoder.bottom), LINE)
    for boundary in (0, *decoder.boundaries):
        place = decoder.x(boundary)
        used = boundary in decoder.boundaries
        sheet.line((place, 128), (place, decoder.bottom + 12), EDGE[CORE], "" if used else "3 4")
        sheet.text(place, decoder.bottom + 29, f"b={boundary}", size=14, bold=used, color=EDGE[CORE])
    middle = decoder.x(decoder.boundaries[-1]) + 20
    sheet.lines(
        middle, 182,
        [
            "at a boundary a pre-hook of the next layer shortens",
            "what the layer is called with; its KV cache then",
            "simply holds fewer rows and reports the logical length",
        ],
        anchor="start", size=13, color=EDGE[CORE],
    )  # fmt: skip
    sheet.text(
        decoder.x(22), decoder.bottom - 4, "text tokens: never removed", size=12, color=SOFT
    )


def draw_boundary(sheet: Drawing, decoder: Decoder) -> None:
    """What happens at one boundary."""
    top, height = 480, 300
    place = decoder.x(decoder.boundaries[1])
    sheet.parts.append(
        f'<polygon points="{place:g},{decoder.bottom + 36:g} 20,{top} 1260,{top}" '
        'fill="#f3f7fe" stroke="none"/>'
    )
    sheet.rectangle(20, top, 1240, height, "#f8fafd", edge=EDGE[CORE], radius=10)
    about = "decided once per prefill, in float32, every image by itself, then applied to anything"
    sheet.label(262, top + 32, "at one boundary", about)
    row = top + 58
    sheet.box(40, row, 190, 148, ADAPTER, "signals", "of encoder and decoder:", "hidden, transitions,",
              "text and vision attention,", "keys, grid, ...: those", "that some stage needs")  # fmt: skip
    sheet.box(262, row, 178, 148, STRATEGY, "scorers", "signals →", "one number per token,",
              "[batch, tokens];", "normalized, weighted,", "added")  # fmt: skip
    sheet.box(472, row, 158, 148, STRATEGY, "selector", "importances + budget", "→ which stay",
              "", "ties: lowest index")  # fmt: skip
    sheet.box(662, row, 168, 148, STRATEGY, "merger", "at b=0 only: the others", "are averaged into few",
              "vectors and projected;", "else they are dropped", dashed=True)  # fmt: skip
    sheet.box(862, row, 158, 148, CORE, "reduction", "surviving row indices", "per sample, and the",
              "vectors to write;", "samples padded left")  # fmt: skip
    for left in (230, 440, 630, 830, 1020):
        sheet.arrow((left, row + 74), (left + 30, row + 74))
    sheet.rectangle(1052, row, 188, 148, CORE)
    sheet.text(1146, row + 25, "applied to all rows", bold=True)
    sheet.lines(1146, row + 48, ["hidden states", "rotary embeddings", "attention mask",
                "origin (→ trace)", "earlier transitions"], size=13, color=SOFT)  # fmt: skip
    below = row + 178
    sheet.label(
        40, below + 12, "positions",
        "keep: survivors keep their (M-)RoPE positions;  "
        "reindex: contiguous again in every segment of layers",
    )  # fmt: skip
    sheet.label(
        40, below + 40, "later layers",
        "get the shortened arguments; at the end the decoder's output is scattered back to one "
        "row per input token",
    )  # fmt: skip
    sheet.arrow((211, 262), (211, 470), (135, 470), (135, row - 2), color=EDGE[ADAPTER], dashed=True)


def draw_legend(sheet: Drawing) -> None:
    """What the colors mean."""
    left, top = 40, 804
    for color, words, width in (
        (MODEL, "the model, unmodified", 200),
        (ADAPTER, "adapters/: where things are in a family", 310),
        (STRATEGY, "strategies/: what to keep", 230),
        (CORE, "core/: hooks, index algebra, cache", 280),
    ):
        sheet.rectangle(left, top, 22, 16, color, radius=3)
        sheet.text(left + 32, top + 13, words, anchor="start", size=13)
        left += width + 24


PICTURES = {"architecture.svg": architecture}


def main() -> None:
    """Write all pictures."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
