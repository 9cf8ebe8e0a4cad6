"""Pictures as a person sees them: upright, RGB, on white where they are transparent.

Every picture of the project is opened or converted here. One that nobody could see without being
told which value is white is refused. Color profiles are not applied: models saw none either.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tokensieve.core.errors import ModelError
from tokensieve.core.files.plain import MEGABYTE, read_plain
from tokensieve.core.foreign import foreign, shorten

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

MOST_BYTES = 512 * MEGABYTE
MOST_PIXELS = 2**27  # with values of 64 bits a gigabyte
MOST_PAGES = 1000  # small copies of the picture among them
FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA",
    "ICO", "PCX", "SGI",
)  # fmt: skip
"""What is a picture by itself: Pillow lets Ghostscript run the program that an EPS file is."""
FEWEST = 16  # levels out of 256 that have to be left when values are scaled
SIXTEEN = (65535,)
TOPS: dict[str, tuple[int, ...]] = {  # what may stand for white, by raw mode or mode of Pillow
    "I;12": (4095,),
    "I;16S": (255, 32767),
    "I;16BS": (255, 32767),
    "I": (255, 65535),
    "F": (1, 255),
}
KEY_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}
"""From the numbers of a PNG's transparent color to those of its pixels."""
_CHANNELS_OF_16 = re.compile(r";16[BLN]$")  # "BGR;16" is 16 bits a pixel
WHITE_IS_ZERO, REDUCED = 262, 254  # TIFF tags: PhotometricInterpretation, NewSubfileType
ADVICE = "store it with 8 bits a channel"


def open_image(source: Path | BinaryIO) -> Image:
    """A picture from a file, as :func:`as_seen`; of an animation the first frame.

    Raises:
        ModelError: in one line: there is no such file, or nothing in it that can be seen.
    """
    from PIL import Image, UnidentifiedImageError

    name = shorten(str(source)) if isinstance(source, Path) else "(bytes)"
    with foreign(ModelError, f"image {name} cannot be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of broken metadata and of many pixels
        try:
            Image.init()
            known = [kind for kind in FORMATS if kind in Image.OPEN]
            stream = source
            if isinstance(source, Path):  # read whole first, so that nobody waits for a pipe
                stream = io.BytesIO(read_plain(source, MOST_BYTES))
            image = Image.open(stream, formats=known)
        except IsADirectoryError:
            raise ModelError(f"image {name} is a folder, not a picture") from None
        except FileNotFoundError:
            raise ModelError(f"image {name} does not exist") from None
        except Image.DecompressionBombError:
            raise ValueError(f"it is far too large, allowed: {MOST_PIXELS:,} pixels") from None
        except UnidentifiedImageError:
            raise ModelError(f"image {name} is not an image that Pillow can read") from None
        with image:
            _check_pixels(image)
            _check_pages(image)
            raw = _raw_mode(image)
            image.load()
            return _seen(image, raw)


def as_seen(image: Image) -> Image:
    """An upright RGB picture without metadata, on white where ``image`` is transparent.

    Values of 16 or 32 bits and fractions are scaled to 8 bits.

    Raises:
        ModelError: nobody can tell which value is white: some are negative, no numbers, or far
            from the top of every usual scale.
    """
    with foreign(ModelError, "a picture cannot be used"):
        _check_pixels(image)
        raw = _raw_mode(image)  # of a file that has been opened only
        image.load()
        return _seen(image, raw)


def picture_facts(image: Image) -> Iterator[bytes]:
    """Whatever :func:`as_seen` goes by, and the pixels as they are; metadata is in ``image.info``.

    Where the picture came from is none of it: equal facts, equal pictures.
    """
    raw = _raw_mode(image)
    image.load()
    white = getattr(image, "tag_v2", {}).get(WHITE_IS_ZERO)
    yield repr((image.mode, image.size, raw, image.format, _turn(image), white)).encode()
    yield bytes(image.getpalette(None) or ())
    yield image.tobytes()


def _seen(image: Image, raw: str) -> Image:
    """The picture of :func:`as_seen`; ``raw`` is Pillow's name of how the file held the pixels."""
    import numpy as np
    from PIL import Image as Images

    turn, holes = _turn(image), _keyed_out(image, raw)
    if image.mode.startswith(("I", "F")):
        flat = _gray(image, raw)
    else:
        if _CHANNELS_OF_16.search(raw):  # Pillow cuts them to 8 bits: of few levels, none is left
            colors = len(image.getbands()) - image.mode.endswith("A")
            _check_brightest(float(np.asarray(image)[..., :colors].max()), 255)
        flat = image
    if holes is None and image.has_transparency_data:
        clear = flat.convert("LA") if flat.mode == "La" else flat
        clear = clear.convert("RGBA")
        flat = Images.alpha_composite(Images.new("RGBA", clear.size, "white"), clear)
    flat = flat.convert("RGB")
    if holes is not None:
        flat.paste((255, 255, 255), mask=holes)
    upright = flat if turn is None else flat.transpose(turn)
    upright.info = {}
    return upright


def _turn(image: Image) -> Transpose | None:
    """The turn that sets the picture upright; None if no metadata that can be read asks for one."""
    from PIL import ExifTags
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return turns.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # whatever Pillow makes of bytes that are no EXIF
            return None


def _keyed_out(image: Image, raw: str) -> Image | None:
    """A mask of the one color that counts as transparent; None if there is none such."""
    import numpy as np
    from PIL import Image as Images

    key = image.info.get("transparency")
    bands = len(key) if isinstance(key, tuple) else isinstance(key, int)
    if image.mode.startswith("P") or bands != len(image.getbands()):
        return None
    color = (np.asarray(key) * KEY_SCALES.get(raw, 1)).astype(int)
    same = np.asarray(image) == color
    return Images.fromarray(same if same.ndim == 2 else same.all(axis=2))  # noqa: PLR2004 - bands


def _gray(image: Image, raw: str) -> Image:
    """The picture in 8 bits, of values that have more.

    Raises:
        ValueError: nobody knows their scale.
    """
    import numpy as np
    from PIL import Image as Images

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"some values are no numbers (NaN or infinity): {ADVICE}")
    if values.min() < 0:
        raise ValueError(f"some values are negative (down to {values.min():g}): {ADVICE}")
    tops, high = TOPS.get(raw) or TOPS.get(image.mode) or SIXTEEN, values.max()
    if image.format == "PPM" and image.mode == "I":  # Pillow scales it to 16 bits
        tops = SIXTEEN
    top = next((top for top in tops if high <= top), None)
    if top is None:
        raise ValueError(f"values go up to {high:g}, more than {tops[-1]}: {ADVICE}")
    _check_brightest(high, top)
    scaled = np.rint(values * (255 / top))
    if getattr(image, "tag_v2", {}).get(WHITE_IS_ZERO) == 0:
        scaled = 255 - scaled
    return Images.fromarray(scaled.astype(np.uint8))


def _check_brightest(high: float, top: float) -> None:
    if 0 < high * FEWEST < top:
        raise ValueError(
            f"the brightest value is {high:g} where {top} is white, so hardly anything could be "
            f"seen: {ADVICE}"
        )


def _check_pixels(image: Image) -> None:
    """Refuse what would not fit into memory, before a pixel of it is unpacked."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"it has {width} x {height} pixels, allowed: {MOST_PIXELS:,} in all: make it smaller"
        )


def _check_pages(image: Image) -> None:
    """Refuse a TIFF of several pages: one of them would stand for all."""
    from PIL.TiffImagePlugin import TiffImageFile

    if not isinstance(image, TiffImageFile):
        return
    pages = 0
    for number in range(MOST_PAGES + 1):
        try:
            image.seek(number)
        except EOFError:
            break
        pages += not int(image.tag_v2.get(REDUCED, 0)) & 1
    else:
        raise ValueError(f"it has more than {MOST_PAGES} pages")
    image.seek(0)
    if pages > 1:
        raise ValueError(f"it has {pages} pages: store each as a picture, and list them")


def _raw_mode(image: Any) -> str:
    """Pillow's name of how the file holds its pixels; empty if it has none, or was asked too late.

    Loading makes Pillow forget it, so it stays with the picture: one that was looked at once is
    seen the same again.
    """
    if getattr(image, "tile", None):
        arguments = image.tile[0][3]
        first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        image.raw_mode_of_file = first if isinstance(first, str) else ""
    return str(getattr(image, "raw_mode_of_file", ""))
