"""Pictures are read as a person sees them, or refused in one line; nothing in between."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tokensieve.core.errors import ModelError
from tokensieve.core.files.pictures import as_seen, open_image

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
GRAY = Image.fromarray(RAMP)
RGB = GRAY.convert("RGB")
PALETTE = RGB.quantize(64)


def values(scale: float, kind: Any) -> Image.Image:
    """The ramp at another scale."""
    return Image.fromarray((RAMP.astype(np.float64) * scale).astype(kind))


def ink() -> Image.Image:
    """Black ink that is there in the alpha channel only: a ramp on white paper."""
    return Image.merge("LA", (Image.new("L", GRAY.size, 0), Image.fromarray(255 - RAMP)))


def saved(form: str, image: Image.Image, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def png(depth: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 64 x 64 pixels that Pillow itself would not write."""
    head = struct.pack(">IIBBBBB", 64, 64, depth, color, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def rows16(*channels: Callable[[int], int]) -> bytes:
    """Rows of a PNG with 16 bits a channel."""
    kind = f">{len(channels)}H"
    pixels = (struct.pack(kind, *(channel(int(v)) for channel in channels)) for v in RAMP[0])
    return (b"\0" + b"".join(pixels)) * 64


def full(value: int) -> int:
    return value * 257


NIBBLES = [int(value) >> 4 for value in RAMP[0]]
PAIRS = zip(NIBBLES[::2], NIBBLES[1::2], strict=True)
FOUR_BITS = (b"\0" + bytes(left << 4 | right for left, right in PAIRS)) * 64

# content of a file that shows the ramp
RAMPS: dict[str, bytes] = {
    "8 bits": saved("PNG", GRAY),
    "palette": saved("PNG", PALETTE),
    "palette, white transparent": saved("GIF", PALETTE, transparency=PALETTE.getpixel((63, 0))),
    "CMYK": saved("JPEG", RGB.convert("CMYK")),
    "YCbCr": saved("JPEG", RGB.convert("YCbCr")),
    "LAB": saved("TIFF", RGB.convert("LAB")),
    "with a profile that is none": saved("PNG", RGB, icc_profile=b"no profile"),
    "animation": saved("GIF", RGB, save_all=True, append_images=[RGB.rotate(90)]),
    "APNG": saved("PNG", RGB, save_all=True, append_images=[RGB.rotate(90)]),
    "16 bits in PNG": saved("PNG", values(257, np.uint16)),
    "16 bits in TIFF": saved("TIFF", values(257, np.uint16)),
    "16 bits, white is zero": saved(
        "TIFF", Image.fromarray(65535 - RAMP.astype(np.uint16) * 257), tiffinfo={262: 0}
    ),
    "32 bits up to 65535": saved("TIFF", values(257, np.int32)),
    "32 bits up to 255": saved("TIFF", values(1, np.int32)),
    "PGM of 12 bits": b"P5 64 64 4095\n" + (RAMP.astype(np.uint16) * 16).astype(">u2").tobytes(),
    "fractions up to 1": saved("TIFF", values(1 / 255, np.float32)),
    "fractions up to 255": saved("TIFF", values(1, np.float32)),
    "ink in the alpha channel": saved("PNG", ink()),
    "RGBA": saved("WEBP", ink().convert("RGBA"), lossless=True),
    "16 bits and alpha": png(16, 4, rows16(lambda v: 0, lambda v: full(255 - v))),
    "48 bits": png(16, 2, rows16(full, full, full)),
    "48 bits, white transparent": png(
        16, 2, rows16(full, full, full), (b"tRNS", struct.pack(">HHH", *[0xFFFF] * 3))
    ),
    "64 bits": png(16, 6, rows16(full, full, full, lambda v: 65535)),
    "4 bits": png(4, 0, FOUR_BITS),
    "4 bits, white transparent": png(4, 0, FOUR_BITS, (b"tRNS", struct.pack(">H", 15))),
}


@pytest.mark.parametrize("case", RAMPS)
def test_a_ramp_is_seen_as_a_ramp(case: str, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(RAMPS[case])
    seen = open_image(tmp_path / "picture")
    assert (seen.mode, seen.size, seen.info) == ("RGB", (64, 64), {})
    coarse = 20 if case.startswith(("4 bits", "LAB", "PGM")) else 5
    assert np.abs(np.asarray(seen).astype(int) - RAMP[..., None]).max() <= coarse


@pytest.mark.parametrize(
    ("key", "image"),
    [
        (0, GRAY),
        ((0, 0, 0), RGB),
        (0, values(257, np.uint16)),
        (0, Image.fromarray(RAMP > 0)),
    ],
    ids=["L", "RGB", "I;16", "1"],
)
def test_the_transparent_color_of_a_png_is_white(key: Any, image: Image.Image) -> None:
    seen = np.asarray(open_image(io.BytesIO(saved("PNG", image, transparency=key))))
    assert (seen[:, RAMP[0] == 0] == 255).all()
    assert (seen[:, 1] < 255).all() or image.mode == "1"


def test_a_transparent_black_of_4_bits_is_white() -> None:
    """Pillow compares the 4 bits of the color with the 8 bits of its pixels."""
    keyed = png(4, 0, FOUR_BITS, (b"tRNS", struct.pack(">H", 1)))
    seen = np.asarray(open_image(io.BytesIO(keyed)))[..., 0]
    assert (seen[:, RAMP[0] >> 4 == 1] == 255).all()
    assert (seen[:, RAMP[0] >> 4 == 2] == 34).all()


@pytest.mark.parametrize("number", range(1, 10))
def test_pictures_are_upright(number: int) -> None:
    """9 is no orientation: such a picture is shown as it is stored."""
    corner = RGB.copy()
    corner.paste((255, 0, 0), (0, 0, 8, 16))
    T = Image.Transpose
    undo = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE,
            6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270}.get(number)  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    stored = corner if undo is None else corner.transpose(undo)
    seen = open_image(io.BytesIO(saved("PNG", stored, exif=exif)))
    assert np.array_equal(np.asarray(seen), np.asarray(corner))


def test_exif_that_is_broken_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole = saved("JPEG", RGB, exif=exif)
    place = whole.find(b"Exif") + 10
    broken = whole[:place] + b"\xff" * 8 + whole[place + 8 :]
    assert abs(np.asarray(open_image(io.BytesIO(broken))).mean() - 127) < 2
    assert not recwarn.list


ONE_PIXEL = saved("PNG", Image.new("RGB", (1, 1)))
# content -> what the error says
REFUSED: dict[str, tuple[bytes, str]] = {
    "12 bits in 16": (saved("PNG", values(16, np.uint16)), "brightest value is 4080 where 65535"),
    "12 bits in 48": (png(16, 2, rows16(*[lambda v: v * 16] * 3)), "brightest value is 15 where"),
    "8 bits in 16": (saved("TIFF", values(1, np.uint16)), "brightest value is 255 where 65535"),
    "numbers of classes": (saved("TIFF", values(1 / 64, np.int32)), "brightest value is 3 where"),
    "fractions above 1": (saved("TIFF", values(1 / 250, np.float32)), "1.02 where 255 is white"),
    "fractions up to 65535": (saved("TIFF", values(257, np.float32)), "values go up to 65535"),
    "32 bits": (saved("TIFF", values(1 << 20, np.int32)), "go up to 2.67387e"),
    "negative fractions": (saved("TIFF", values(-1, np.float32)), r"negative \(down to -255\)"),
    "negative numbers": (saved("TIFF", values(-1, np.int32)), r"negative \(down to -255\)"),
    "NaN": (saved("TIFF", values(np.nan, np.float32)), "no numbers"),
    "infinity": (saved("TIFF", Image.fromarray(np.full((4, 4), np.inf, np.float32))), "no numbers"),
    "pages": (saved("TIFF", RGB, save_all=True, append_images=[RGB]), "has 2 pages"),
    "nothing": (b"", "not an image"),
    "HTML": (b"<html>404</html>", "not an image"),
    "half a JPEG": ((j := saved("JPEG", RGB, quality=95))[: len(j) // 2], "cannot be read"),
    "half a PNG": ((p := saved("PNG", RGB))[: len(p) // 2], "cannot be read"),
    "no pixels": (png(8, 2, b""), "cannot be read"),
    "a bomb": (ONE_PIXEL.replace(ONE_PIXEL[12:33], b"IHDR" + struct.pack(
        ">IIBBBBBI", 60000, 60000, 8, 2, 0, 0, 0,
        zlib.crc32(b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)))),
        "far too large"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_seen_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        open_image(tmp_path / "odd.png")
    said = str(caught.value)
    assert said.startswith(f"image {tmp_path}/odd.png ")
    assert len(said.splitlines()) == 1
    assert len(said) < 300 + len(str(tmp_path))


def test_places_without_a_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "no.png", "does not exist"),
        (tmp_path / "\udcff.png", r"\\udcff.png does not exist"),
        (tmp_path / "a\0b", "null byte"),
        (tmp_path / ("a" * 3000), "name too long"),
        (tmp_path / "pipe", "is no regular file"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            open_image(place)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("side", [1, 10_000])
def test_tiny_and_large_pictures_are_none_to_warn_about(side: int) -> None:
    black = io.BytesIO(saved("PNG", Image.new("1", (side, side))))
    assert open_image(black).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize(
    ("mode", "seen"),
    [("La", 255), ("RGBa", 255), ("PA", 255), ("LA", 255), ("RGBA", 255), ("1", 0), ("I;16", 0),
     ("I", 0), ("F", 0), ("CMYK", 255), ("RGBX", 0)],
)  # fmt: skip
def test_pictures_in_memory_follow_the_same_rule(mode: str, seen: int) -> None:
    blank = Image.new(mode, (3, 2))
    assert as_seen(blank).getextrema() == ((seen, seen),) * 3


@pytest.mark.parametrize("case", RAMPS)
def test_a_file_that_a_plugin_opened_is_seen_as_one_of_ours(case: str) -> None:
    with Image.open(io.BytesIO(RAMPS[case])) as opened:
        seen = as_seen(opened)
    assert seen.tobytes() == open_image(io.BytesIO(RAMPS[case])).tobytes()


def test_what_is_seen_is_seen_again() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    once = open_image(io.BytesIO(saved("JPEG", RGB.resize((8, 4)), exif=exif)))
    assert once.size == (4, 8)
    assert as_seen(once).tobytes() == once.tobytes()


CALLERS: Mapping[str, str] = {
    "core/cli/run.py": "open_image",
    "core/study/spec/task_files.py": "open_image",
    "core/study/work/study_models.py": "as_seen",
    "core/study/lmms/conversation.py": "as_seen",
}


def test_nobody_else_opens_pictures() -> None:
    """One rule holds for the command line, task files, plugins' tasks and benchmarks."""
    root = Path(__file__).parents[2]
    own = {"core/files/pictures.py", "core/report/figures/attribution.py"}  # which reads its own
    assert all((root / place).is_file() for place in (*own, *CALLERS))
    for file in (root / "core").rglob("*.py"):
        place, text = file.relative_to(root).as_posix(), file.read_text()
        assert place in own or "Image.open" not in text, place
        assert place not in CALLERS or CALLERS[place] in text, place
