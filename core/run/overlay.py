"""A picture in which a person sees which patches of an image survive each boundary.

One column for the original and one per boundary. Kept patches are untouched, dropped ones are
gray and faded, and what the model never saw (outside a center crop) is nearly white.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from tokensieve.core.contract.panel import Panel
from tokensieve.core.run.canvas import (
    PAPER,
    SOFT_INK,
    Color,
    side_by_side,
    stacked,
    text_image,
    text_width,
)
from tokensieve.core.units import percent

Box = tuple[int, int, int, int]

FADED: Color = (186, 190, 196)  # mid-gray: black and white patches both stand out from it
ACCENT: Color = (230, 92, 30)
DROPPED_INK, UNSEEN_INK = 0.24, 0.07  # how much of the picture shines through

LONG_SIDE = 480  # pixels of a panel
SHORT_SIDE = 320  # at least, unless the picture is a very long strip
LONGEST_STRIP = 960
OVERVIEW_SCALE = 0.45
COLUMNS = 5
MARGIN, GAP = 36, 24
EDGE = 1e-6  # shares of a picture: so little is no overlap
THIN_CELL = 16  # pixels; the outline of smaller patches is thinner
TITLE_SIZE, TEXT_SIZE, CAPTION_SIZE, DETAIL_SIZE, LEGEND_SIZE = 34, 24, 25, 22, 20


@dataclass(frozen=True)
class Frame:
    """The tokens that are left after a boundary.

    Attributes:
        caption: the boundary, in words.
        kept: the surviving visual tokens, numbered through over all pictures.
        extra: further tokens that have no visual token's place.
    """

    caption: str
    kept: Sequence[int]
    extra: int = 0


@dataclass(frozen=True)
class Sheet:
    """Panels that are side by side on a picture, and their first visual token."""

    panels: tuple[Panel, ...]
    first: int

    @property
    def tokens(self) -> range:
        """The visual tokens on the sheet."""
        count = sum(panel.rows * panel.columns for panel in self.panels)
        return range(self.first, self.first + count)


def draw_overlay(
    pictures: Sequence[Image.Image],
    panels: Sequence[Sequence[Panel]],
    frames: Sequence[Frame],
    *,
    title: str = "",
    lines: Sequence[tuple[str, str]] = (),
) -> Image.Image:
    """Draw pictures (rows) and boundaries (columns) on one white sheet.

    Args:
        pictures: images, in the order of the prompt.
        panels: for each picture, where its visual tokens are.
        frames: one per boundary.
        title: large text on top; ``lines`` are labels and texts below it.
    """
    blocks, sheets, first = [], [], 0
    for number, (picture, group) in enumerate(zip(pictures, panels, strict=True)):
        own = divide_into_sheets(group, first)
        first = own[-1].tokens.stop
        name = "original" if len(pictures) == 1 else f"original {number + 1}"
        blocks.append(_block(picture, own, frames, name))
        sheets.append(own)
    width = max(block.width for block in blocks)
    header = [text_image(title, TITLE_SIZE, width, bold=True)] if title else []
    column = max((text_width(label, TEXT_SIZE) for label, _ in lines), default=0) + 2
    for label, text in lines:
        left = text_image(label, TEXT_SIZE, column, color=SOFT_INK)
        right = text_image(text, TEXT_SIZE, max(1, width - column - GAP), rows=2)
        header.append(side_by_side([left, right], GAP))
    top = [stacked(header, GAP // 3)] if header else []
    notes = ["in color: kept", "gray: dropped"] if frames else ["nothing is dropped"]
    if any(_is_partial(own[0]) for own in sheets):
        notes.append("white: outside the crop that the model sees")
    if any(len(own) > 1 for own in sheets):
        notes.append("small: the overview tile")
    extra = max((frame.extra for frame in frames), default=0)
    if extra:
        notes.append(f"not shown: {extra} kept at no patch's place ([CLS])")
    legend = text_image(" | ".join(notes), LEGEND_SIZE, width, color=SOFT_INK, rows=2)
    return ImageOps.expand(stacked([*top, *blocks, legend], GAP), MARGIN, PAPER)


def kept_mask(size: tuple[int, int], sheet: Sheet, kept: Iterable[int]) -> Image.Image:
    """``L`` image of ``size``: 255 where a surviving token of the sheet is, 0 elsewhere."""
    alive, first = set(kept), sheet.first
    mask = Image.new("L", size, 0)
    for panel in sheet.panels:
        count = panel.rows * panel.columns
        flags = bytes(255 * (token in alive) for token in range(first, first + count))
        grid = Image.frombytes("L", (panel.columns, panel.rows), flags)
        left, top, right, bottom = _pixels(panel, size)
        grown = grid.resize((right - left, bottom - top), Image.Resampling.NEAREST)
        mask.paste(grown, (left, top))
        first += count
    return mask


def divide_into_sheets(panels: Sequence[Panel], first: int) -> list[Sheet]:
    """Divide panels into sheets without overlaps: the tiles, then the overview."""
    groups: list[list[Panel]] = [[]]
    for panel in panels:
        left, top, right, bottom = panel.box
        if any(
            min(right, box[2]) - max(left, box[0]) > EDGE
            and min(bottom, box[3]) - max(top, box[1]) > EDGE
            for box in (other.box for other in groups[-1])
        ):
            groups.append([])
        groups[-1].append(panel)
    sheets = []
    for group in groups:
        sheets.append(Sheet(tuple(group), first))
        first = sheets[-1].tokens.stop
    return sheets


def _pixels(panel: Panel, size: tuple[int, int]) -> Box:
    """The panel on a picture of that size; of a strip it may see less than a pixel."""
    width, height = size
    left = min(round(panel.box[0] * width), width - 1)
    top = min(round(panel.box[1] * height), height - 1)
    right, bottom = round(panel.box[2] * width), round(panel.box[3] * height)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def panel_picture(picture: Image.Image) -> Image.Image:
    """The picture at panel size; small ones grow by whole factors, without blur."""
    long, short = max(picture.size), min(picture.size)
    scale = max(LONG_SIDE / long, min(SHORT_SIDE / short, LONGEST_STRIP / long))
    resample = Image.Resampling.LANCZOS
    if scale >= 2:  # noqa: PLR2004 - from here on single pixels are worth seeing
        scale, resample = round(scale), Image.Resampling.NEAREST
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, resample)


def pruned_view(picture: Image.Image, sheet: Sheet, kept: Iterable[int]) -> Image.Image:
    """The picture with everything faded but the patches of surviving tokens."""
    gray = ImageOps.grayscale(picture).convert("RGB")
    faded = Image.blend(Image.new("RGB", picture.size, FADED), gray, DROPPED_INK)
    result = Image.blend(Image.new("RGB", picture.size, PAPER), gray, UNSEEN_INK)
    for panel in sheet.panels:
        box = _pixels(panel, picture.size)
        result.paste(faded.crop(box), box)
    panel = sheet.panels[0]
    cell = picture.width * (panel.box[2] - panel.box[0]) / panel.columns
    outline = 1 if cell < THIN_CELL else 2
    mask = kept_mask(picture.size, sheet, kept)
    around = mask.filter(ImageFilter.MaxFilter(2 * outline + 1))
    result.paste(ACCENT, mask=ImageChops.subtract(around, mask))
    result.paste(picture, mask=mask)
    return result


def _is_partial(sheet: Sheet) -> bool:
    """Whether the model sees less than the whole picture."""
    area = sum((p.box[2] - p.box[0]) * (p.box[3] - p.box[1]) for p in sheet.panels)
    return area < 1 - 1e-6


def _block(
    picture: Image.Image, sheets: Sequence[Sheet], frames: Sequence[Frame], name: str
) -> Image.Image:
    """One picture: as it is, and after each boundary; at most ``COLUMNS`` side by side."""
    main = panel_picture(picture)
    original, views = main.copy(), [main]
    if _is_partial(sheets[0]):  # a frame around what the model sees
        boxes = [_pixels(panel, main.size) for panel in sheets[0].panels]
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        seen = (min(lefts), min(tops), max(rights) - 1, max(bottoms) - 1)
        ImageDraw.Draw(original).rectangle(seen, outline=ACCENT, width=4)
    if len(sheets) > 1:
        small = [max(1, round(side * OVERVIEW_SCALE)) for side in main.size]
        views += [main.resize((small[0], small[1]), Image.Resampling.LANCZOS)] * (len(sheets) - 1)
    tokens = range(sheets[0].first, sheets[-1].tokens.stop)
    cells = [_cell(name, f"{len(tokens)} visual tokens", [original])]
    for frame in frames:
        kept = sum(token in tokens for token in frame.kept)
        detail = f"{kept} of {len(tokens)} tokens ({percent(kept / len(tokens))})"
        drawn = [pruned_view(v, s, frame.kept) for v, s in zip(views, sheets, strict=True)]
        cells.append(_cell(frame.caption, detail, drawn))
    starts = range(0, len(cells), COLUMNS)
    return stacked([side_by_side(cells[i : i + COLUMNS], GAP) for i in starts], GAP)


def _cell(caption: str, detail: str, views: Sequence[Image.Image]) -> Image.Image:
    """A column: what it shows, in two lines, and the pictures below."""
    width = views[0].width
    head = [
        text_image(caption, CAPTION_SIZE, width, bold=True),
        text_image(detail, DETAIL_SIZE, width, color=SOFT_INK),
    ]
    return stacked([stacked(head, 2), *views], GAP // 2)
