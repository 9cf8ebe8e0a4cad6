"""A sheet of SVG: boxes, arrows, words. What ``docs/pictures.py`` draws with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Point = tuple[float, float]

INK, SOFT, LINE, PAPER = "#1c2026", "#5b646e", "#aab2bb", "#ffffff"
FONT = "'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONOSPACE = "Consolas, 'DejaVu Sans Mono', monospace"
LINE_STEP = 19
HEAD = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
    'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" '
    f'fill="{INK}"/></marker></defs>'
)


@dataclass(frozen=True)
class Paint:
    """Colors of an area and of its edge."""

    fill: str
    edge: str = LINE


@dataclass(frozen=True)
class Style:
    """How words look; ``anchor`` is ``start``, ``middle`` or ``end``."""

    size: int = 15
    color: str = INK
    anchor: str = "middle"
    bold: bool = False

    def attributes(self) -> str:
        """As SVG attributes."""
        weight = ' font-weight="600"' if self.bold else ""
        return f'font-size="{self.size}" fill="{self.color}" text-anchor="{self.anchor}"{weight}'


NAME = Style(bold=True)
NOTE = Style(size=13, color=SOFT)
LEFT_NOTE = Style(size=13, color=SOFT, anchor="start")


@dataclass(frozen=True)
class Box:
    """A rectangle on the sheet."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height

    @property
    def center(self) -> float:
        """The middle between left and right."""
        return self.left + self.width / 2


@dataclass
class Sheet:
    """Collects SVG elements."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(self, at: Point, words: str, style: Style = NOTE) -> None:
        """One line of text with its baseline at ``at``."""
        self.parts.append(
            f'<text x="{at[0]:g}" y="{at[1]:g}" {style.attributes()}>{escape(words)}</text>'
        )

    def lines(self, at: Point, words: Sequence[str], style: Style = NOTE) -> None:
        """Lines of text below each other."""
        for number, line in enumerate(words):
            self.text((at[0], at[1] + number * LINE_STEP), line, style)

    def label(self, at: Point, word: str, rest: str, *, font: str = "") -> None:
        """A bold word and an explanation after it."""
        family = f' font-family="{font}"' if font else ""
        self.parts.append(
            f'<text x="{at[0]:g}" y="{at[1]:g}" font-size="15" fill="{INK}">'
            f'<tspan font-weight="600"{family}>{escape(word)}</tspan>'
            f'<tspan dx="10" font-size="13" fill="{SOFT}">{escape(rest)}</tspan></text>'
        )

    def area(self, box: Box, paint: Paint, *, radius: float = 6, dashed: bool = False) -> None:
        """A filled rectangle."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" '
            f'height="{box.height:g}" rx="{radius:g}" fill="{paint.fill}" '
            f'stroke="{paint.edge}" stroke-width="1.4"{dash}/>'
        )

    def card(self, box: Box, paint: Paint, name: str, *words: str, dashed: bool = False) -> None:
        """A rectangle with a bold name and lines under it."""
        self.area(box, paint, dashed=dashed)
        self.text((box.center, box.top + 25), name, NAME)
        self.lines((box.center, box.top + 48), words)

    def polygon(self, points: Sequence[Point], fill: str) -> None:
        """A filled area without an edge."""
        self.parts.append(f'<polygon points="{_path(points)}" fill="{fill}"/>')

    def arrow(self, *points: Point, color: str = INK, dashed: bool = False) -> None:
        """A line through ``points`` with a head at its end."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{_path(points)}" fill="none" stroke="{color}" '
            f'stroke-width="1.6"{dash} marker-end="url(#head)"/>'
        )

    def line(self, start: Point, end: Point, color: str = LINE, dash: str = "") -> None:
        """A plain line."""
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{_path((start, end))}" fill="none" stroke="{color}" '
            f'stroke-width="1.4"{extra}/>'
        )

    def svg(self) -> str:
        """The finished picture."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="{FONT}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n{HEAD}\n"
            f'<rect width="{self.width}" height="{self.height}" fill="{PAPER}"/>\n{body}\n</svg>\n'
        )


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
