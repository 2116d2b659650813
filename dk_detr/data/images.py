"""The one reader of images: of files for training, evaluation, `check`, embedding banks and the demo, and of images of
Pillow's for `Predictor`.

What Detectron2's reader makes of ordinary images (8 bits of grey, RGB, CMYK, a palette) this one makes too, bit for
bit. It differs where that one gives other pixels than the file has, and says nothing:

- Grey of more than 8 bits is scaled by its bit depth (16 bits: divided by 257 and rounded), not cut off at 255. Where
  the file does not say which number is white (32 bits, signed or floating point), the image is refused.
- Transparent pixels show white, as on paper, not the colour that happens to be stored below.
- A TIFF is turned by its EXIF orientation once: Pillow turns it, and Detectron2 would turn it again.

Of several frames (GIF, APNG, WebP, pages of a TIFF) the first is read.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from torch import Tensor

ORDERS = ("RGB", "BGR")
PAPER = (255, 255, 255)  # what transparent pixels show
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by its EXIF orientation."""
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height

# Formats whose 16 bits are unsigned and reach from black to white; Pillow itself scales the last two's to 16.
SIXTEEN_BITS = ("PNG", "TIFF", "PPM", "JPEG2000")
FETCH_AGAIN = "Fetch it again, or leave it out."


class UnreadableImage(ValueError):
    """An image that cannot be used; the message names it, says why, and what to do."""


class MissingImage(UnreadableImage, FileNotFoundError):
    """An image file that is not there."""


class _UnknownWhite(Exception):
    """The values of an image have no known range."""


def read_image(path: str | os.PathLike[str], order: str = "RGB") -> np.ndarray:
    """An image file as (H, W, 3) uint8, turned as its EXIF says.

    Args:
        order: of the channels, "RGB" or "BGR", as INPUT.FORMAT has it.

    Raises: MissingImage; UnreadableImage; ValueError for another order.
    """
    _check_order(order)
    with open_image(path) as image:
        return read_pixels(image, order)


def pixels_of(image: Image.Image, order: str = "RGB") -> np.ndarray:
    """The same of an image that Pillow has opened or made."""
    _check_order(order)
    with _named(getattr(image, "filename", "") or f"in memory ({image.mode}, {image.width} x {image.height})"):
        return read_pixels(image, order)


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Opens an image file; its pixels are not decoded yet. Also what goes wrong within the block gets its name.

    Raises: MissingImage; UnreadableImage, all that can be refused without the pixels among it.
    """
    with _named(os.fspath(path)), PathManager.open(os.fspath(path), "rb") as file, Image.open(file) as image:
        _white(image)
        yield image


def read_pixels(image: Image.Image, order: str = "RGB") -> np.ndarray:
    """The pixels of an image of `open_image`, as `read_image` gives them."""
    image.load()
    if 0 in image.size:
        raise ValueError(f"it is {image.width} x {image.height} pixels large")
    turn = TURNS.get(orientation(image))
    rgb = _eight_bits(image).convert("RGB") if _is_deep(image) else _on_paper(image)
    pixels = np.asarray(rgb if turn is None else rgb.transpose(turn))
    return pixels if order == "RGB" else pixels[:, :, ::-1]


def orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be followed; 1 for none, or for EXIF data that nobody can read.

    Decodes a PNG, whose EXIF data may be behind its pixels.
    """
    return _orientation(image, image.getexif)


def orientation_in_header(image: Image.Image) -> int:
    """The same without decoding."""
    return _orientation(image, lambda: Image.Image.getexif(image))


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C) array -> (C, H, W) tensor."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


# ---- pixels ----


def _check_order(order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f'INPUT.FORMAT is "{order}"; choose one of {", ".join(ORDERS)}.')


def _on_paper(image: Image.Image) -> Image.Image:
    """In mode RGB; opaque pixels are as Pillow converts them."""
    without_palette = image.mode == "P" and image.palette is None  # icons of Apple's; Pillow's own question fails there
    if without_palette or not image.has_transparency_data:
        return image.convert("RGB")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.composite(rgba.convert("RGB"), Image.new("RGB", image.size, PAPER), rgba.getchannel("A"))


def _is_deep(image: Image.Image) -> bool:
    """Whether its grey has more than 8 bits: I;16 and its kin, I, F."""
    return image.mode.startswith(("I", "F"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Deep grey in mode L: 0 is black, the largest number of its bit depth white, what is transparent is white too."""
    white = _white(image)
    values = np.asarray(image).clip(0, white).astype(np.uint32)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
        values = white - values
    elif "transparency" in image.info:
        values[values == image.info["transparency"]] = white
    return Image.fromarray(((2 * 255 * values + white) // (2 * white)).astype(np.uint8))


def _white(image: Image.Image) -> int:
    """The number that is white. Raises _UnknownWhite where the file does not say."""
    if not _is_deep(image):
        return 255
    if isinstance(image, TiffImageFile) and image.mode != "I" and image.mode != "F":
        return int(2 ** image.tag_v2.get(BITSPERSAMPLE, (16,))[0]) - 1
    known = (*SIXTEEN_BITS, None) if image.mode.startswith("I;16") else ("PNG", "PPM") if image.mode == "I" else ()
    if image.format not in known:
        raise _UnknownWhite(image.mode)
    return 2**16 - 1


def _orientation(image: Image.Image, exif: Callable[[], Image.Exif]) -> int:
    if isinstance(image, TiffImageFile):
        return 1  # Pillow tells its size as after turning, and turns it when it decodes it
    try:
        number = exif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  broken EXIF data raise whatever they like, and the pixels may be sound
        return 1
    return number if isinstance(number, int) else 1


# ---- errors ----


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise MissingImage(f"Image {name} is not there.") from error
    except Exception as error:  # broken files make the decoders raise whatever they like
        raise UnreadableImage(f"Image {name} {_why(error)}") from error


def _why(error: Exception) -> str:
    """What is wrong with an image, and what to do."""
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"has more than {most:,} pixels, the most that Pillow opens. Make it smaller, or cut it into tiles."
    if isinstance(error, _UnknownWhite):
        return f"has grey of Pillow's mode {error} and does not say which number is white. Save it with 8 or 16 bits."
    if isinstance(error, UnidentifiedImageError):
        return f"cannot be read (no image that Pillow knows). {FETCH_AGAIN}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})."
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"cannot be read ({reason}). {FETCH_AGAIN}"
