"""Put pictures and text on a white sheet: below each other, side by side, wrapped to a width."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (28, 32, 38)
SOFT_INK: Color = (104, 112, 122)
LINE_HEIGHT = 1.3
BOLD_STROKE = 0.6
CHECK_SIZE = 20


def stacked(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures below each other, flush left."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (max(image.width for image in images), height), PAPER)
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + gap
    return sheet


def side_by_side(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures next to each other, flush at the top."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    return sheet


def text_image(
    text: str, size: int, width: int, *, color: Color = INK, rows: int = 1, bold: bool = False
) -> Image.Image:
    """``text`` in at most ``rows`` lines of ``width`` pixels; what does not fit ends in ``...``."""
    wrapped = _wrapped(text, size, width, rows)
    line_height = round(size * LINE_HEIGHT)
    image = Image.new("RGB", (width, line_height * len(wrapped)), PAPER)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(wrapped):
        draw.text(
            (1, row * line_height),
            line,
            font=_font(size),
            fill=color,
            stroke_width=BOLD_STROKE if bold else 0,
            stroke_fill=color,
        )
    return image


def text_width(text: str, size: int) -> int:
    """Pixels that ``text`` takes in one line."""
    return round(_font(size).getlength(text))


def _wrapped(text: str, size: int, width: int, rows: int) -> list[str]:
    """The lines of ``text``; characters that the font lacks are question marks."""
    font = _font(size)
    lines = [""]
    for word in "".join(c if _drawable(c) else "?" for c in text).split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"{lines[rows - 1]} ..."]
    for number, line in enumerate(lines):
        if font.getlength(line) > width:
            kept = line.removesuffix("...").rstrip()
            while kept and font.getlength(f"{kept}...") > width:
                kept = kept[:-1]
            lines[number] = f"{kept}..."
    return lines


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def _drawable(character: str) -> bool:
    """Whether Pillow's built-in font has the character; it draws a box for those it lacks."""
    if character.isspace():
        return True
    font = _font(CHECK_SIZE)
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
