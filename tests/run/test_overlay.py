"""The overlay shows exactly the surviving patches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from PIL import Image, ImageChops, ImageStat

from tokensieve.core.contract.panel import Panel
from tokensieve.core.run.canvas import text_image, text_width
from tokensieve.core.run.overlay import (
    ACCENT,
    LONG_SIDE,
    MARGIN,
    SHORT_SIDE,
    Frame,
    divide_into_sheets,
    draw_overlay,
    kept_mask,
    panel_picture,
    pruned_view,
)

WHOLE = (0.0, 0.0, 1.0, 1.0)


def colorful(width: int, height: int) -> Image.Image:
    """No two neighbors alike and nowhere gray."""
    red = Image.linear_gradient("L").resize((width, height))
    green = red.transpose(Image.Transpose.ROTATE_180)
    return Image.merge("RGB", (red, green, Image.new("L", (width, height), 255)))


def cells(mask: Image.Image, rows: int, columns: int) -> list[int]:
    """Numbers of the cells that are white; every cell is all white or all black."""
    width, height = mask.width // columns, mask.height // rows
    white = []
    for number in range(rows * columns):
        left, top = number % columns * width, number // columns * height
        low, high = mask.crop((left, top, left + width, top + height)).getextrema()
        assert low == high
        if high:
            white.append(number)
    return white


def mask_of(panels: Sequence[Panel], kept: Sequence[int], size: tuple[int, int]) -> Image.Image:
    (sheet,) = divide_into_sheets(panels, 0)
    return kept_mask(size, sheet, kept)


def test_a_token_is_its_patch_in_raster_order() -> None:
    kept = [0, 5, 6, 11]
    mask = mask_of([Panel(3, 4, WHOLE)], kept, (80, 60))
    assert cells(mask, 3, 4) == kept


def test_a_center_crop_leaves_the_sides_alone() -> None:
    mask = mask_of([Panel(2, 2, (0.25, 0.0, 0.75, 1.0))], [0, 1, 2, 3], (80, 40))
    assert mask.getbbox() == (20, 0, 60, 40)


def test_tiles_are_numbered_tile_by_tile() -> None:
    left, right = Panel(2, 2, (0.0, 0.0, 0.5, 1.0)), Panel(2, 2, (0.5, 0.0, 1.0, 1.0))
    mask = mask_of([left, right], [1, 4], (80, 40))
    assert cells(mask, 2, 4) == [1, 2]  # second patch of the left tile, first of the right one


def test_an_overview_after_the_tiles_is_a_sheet_of_its_own() -> None:
    tiles = [Panel(2, 2, (0.0, 0.0, 0.5, 1.0)), Panel(2, 2, (0.5, 0.0, 1.0, 1.0))]
    first, second = divide_into_sheets([*tiles, Panel(2, 2, WHOLE)], 100)
    assert list(first.tokens) == list(range(100, 108))
    assert list(second.tokens) == list(range(108, 112))


def test_kept_patches_are_untouched_and_dropped_ones_lose_their_color() -> None:
    picture = colorful(480, 480)
    (sheet,) = divide_into_sheets([Panel(4, 4, WHOLE)], 0)
    kept = [0, 6, 15]
    view = pruned_view(picture, sheet, kept)
    mask = kept_mask(picture.size, sheet, kept)
    black = Image.new("RGB", picture.size)
    difference = Image.composite(ImageChops.difference(view, picture), black, mask)
    assert difference.getbbox() is None
    middle_of_a_dropped_patch = color(view, 180, 60)
    assert max(middle_of_a_dropped_patch) - min(middle_of_a_dropped_patch) < 15


def color(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    found = picture.getpixel((x, y))
    assert isinstance(found, tuple)
    return found


def test_kept_and_dropped_patches_differ_on_black_and_on_white() -> None:
    (sheet,) = divide_into_sheets([Panel(2, 2, WHOLE)], 0)
    for brightness in (0, 255):
        picture = Image.new("RGB", (480, 480), (brightness,) * 3)
        view = pruned_view(picture, sheet, [0])
        assert abs(color(view, 120, 120)[0] - color(view, 360, 360)[0]) > 40


def test_survivors_are_outlined() -> None:
    (sheet,) = divide_into_sheets([Panel(2, 2, WHOLE)], 0)
    view = pruned_view(colorful(480, 480), sheet, [0])
    assert view.getpixel((240, 100)) == ACCENT
    assert view.getpixel((239, 100)) != ACCENT  # on the dropped side: the patch stays whole


@pytest.mark.parametrize(
    "size", [(96, 96), (1, 1), (640, 427), (427, 640), (3000, 2000), (2000, 40)]
)
def test_panels_are_large_enough_to_read(size: tuple[int, int]) -> None:
    panel = panel_picture(colorful(*size))
    assert max(panel.size) >= LONG_SIDE
    assert max(panel.size) <= 2 * LONG_SIDE
    if max(size) <= 2 * min(size):
        assert min(panel.size) >= SHORT_SIDE


def test_small_pictures_grow_without_blur() -> None:
    picture = colorful(96, 96)
    panel = panel_picture(picture)
    assert panel.size == (480, 480)
    assert panel.resize((96, 96), Image.Resampling.NEAREST).tobytes() == picture.tobytes()


def test_one_panel_for_the_original_and_one_per_boundary() -> None:
    frames = [Frame("boundary 2", [0, 1]), Frame("boundary 3", [0])]
    one = draw_overlay([colorful(96, 96)], [[Panel(2, 2, WHOLE)]], frames)
    two = draw_overlay([colorful(96, 96)], [[Panel(2, 2, WHOLE)]], frames[:1])
    assert one.width - two.width >= LONG_SIDE
    assert one.width >= 3 * LONG_SIDE + 2 * MARGIN


def test_the_original_is_shown_as_it_is() -> None:
    picture = colorful(96, 96)
    overlay = draw_overlay([picture], [[Panel(2, 2, WHOLE)]], [Frame("boundary 0", [])])
    panel = panel_picture(picture)
    column = overlay.crop((MARGIN, 0, MARGIN + panel.width, overlay.height))
    starts = [
        top
        for top in range(column.height - panel.height)
        if column.getpixel((0, top)) == panel.getpixel((0, 0))
        and column.crop((0, top, panel.width, top + panel.height)).tobytes() == panel.tobytes()
    ]
    assert len(starts) == 1


def test_tokens_are_numbered_through_over_the_pictures() -> None:
    pictures = [Image.new("RGB", (96, 96), (255, 0, 0)), Image.new("RGB", (96, 96), (0, 255, 0))]
    panels = [[Panel(2, 2, WHOLE)], [Panel(2, 2, WHOLE)]]
    overlay = draw_overlay(pictures, panels, [Frame("boundary 0", [4, 5, 6, 7])])
    second_column = overlay.crop((MARGIN + LONG_SIDE, 0, overlay.width, overlay.height))
    colors = {color for _, color in second_column.getcolors(1 << 20) or []}
    assert (0, 255, 0) in colors
    assert (255, 0, 0) not in colors


def test_many_boundaries_go_to_further_rows() -> None:
    frames = [Frame(f"boundary {number}", [0]) for number in range(12)]
    overlay = draw_overlay([colorful(96, 96)], [[Panel(2, 2, WHOLE)]], frames)
    assert overlay.width < 6 * LONG_SIDE
    assert overlay.height > 3 * LONG_SIDE


def test_a_title_and_lines_take_room() -> None:
    panels = [[Panel(2, 2, WHOLE)]]
    plain = draw_overlay([colorful(96, 96)], panels, [])
    titled = draw_overlay(
        [colorful(96, 96)], panels, [], title="fastv", lines=[("question", "What?")]
    )
    assert titled.height > plain.height
    assert titled.width == plain.width


@pytest.mark.parametrize("text", ["word " * 100, "x" * 500, "", "a\nb\tc", "你好 “quoted” ☃"])
def test_text_never_leaves_its_box(text: str) -> None:
    image = text_image(text, 20, 300, rows=2)
    assert image.width == 300
    assert image.height <= 2 * 26
    right_edge = image.crop((image.width - 1, 0, image.width, image.height))
    assert ImageStat.Stat(right_edge).mean == [255.0, 255.0, 255.0]


def test_long_text_ends_in_dots_instead_of_running_out() -> None:
    width = text_width("boundary 12 ...", 20) + 5
    assert text_width("boundary 12 (written as 12)", 20) > width
    long = text_image("boundary 12 (written as 12)", 20, width)
    assert long.tobytes() != text_image("boundary 12", 20, width).tobytes()
