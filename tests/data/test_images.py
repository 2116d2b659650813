"""The reader of images: for every mode of Pillow the pixels that the file has, or a refusal that names it."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_reads
from PIL import Image

from dk_detr.commands.build_embedding_bank.images import ReadImages
from dk_detr.data import TrainMapper
from dk_detr.data import test_mapper as evaluation_mapper  # under its own name it would pass for a test
from dk_detr.data.check import Kind
from dk_detr.data.check.images import image_fault
from dk_detr.data.images import MissingImage, UnreadableImage, pixels_of, read_image
from dk_detr.engine import setup_cfg
from tests.run_fixtures import MINI

DEEP = np.array([[0, 12000, 128], [30000, 65535, 129]], np.uint16)
SCALED = np.array([[0, 47, 0], [117, 255, 1]])  # divided by 257 and rounded
COLOURS = np.array([[[250, 0, 10], [0, 200, 30], [5, 6, 240]], [[9, 9, 9], [90, 180, 20], [255, 255, 0]]], np.uint8)
ALPHA = np.array([[255, 0, 128], [0, 255, 64]], np.uint8)


def on_paper(colours: np.ndarray, alpha: np.ndarray = ALPHA) -> np.ndarray:
    """What is seen of (H, W, 3) on white."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


Write = Callable[[Path], Any]


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def saved(picture: Image.Image, **more: Any) -> Write:
    return lambda path: picture.save(path, **more)


def picture(mode: str) -> Image.Image:
    """COLOURS in a mode of 8 bits a channel."""
    return Image.fromarray(COLOURS).convert(mode)


def with_alpha(mode: str = "RGBA") -> Image.Image:
    image = Image.fromarray(COLOURS).convert("L" if mode == "LA" else "RGB").convert(mode)
    image.putalpha(Image.fromarray(ALPHA))
    return image


def palette() -> Image.Image:
    """Six pixels, of six colours of a palette."""
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    image.putpalette(COLOURS.reshape(-1).tolist())
    return image


def tiff(values: np.ndarray, bits: int, photometric: int = 1, sample_format: int = 1, order: str = "<") -> Write:
    """A TIFF by hand: Pillow writes no 12 bits, and no 16 of which 0 is white."""
    data = packed_twelve_bits(values) if bits == 12 else values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags[339] = sample_format
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    content = head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return lambda path: path.write_bytes(content)


def packed_twelve_bits(values: np.ndarray) -> bytes:
    """Every row begins with a new byte."""
    rows = ["".join(f"{value:012b}" for value in row) for row in values.tolist()]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def fits(values: np.ndarray) -> bytes:
    """Of this format's 16 bits half of the numbers may be negative."""
    sizes = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": values.shape[1], "NAXIS2": values.shape[0]}
    cards = [f"{key:<8}= {value:>20}".ljust(80) for key, value in sizes.items()]
    return "".join([*cards, "END"]).ljust(2880).encode() + values.astype(">i2").tobytes().ljust(2880, b"\0")


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that says to have so many grey pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def bomb(path: Path) -> None:
    """200 million pixels in a few bytes."""
    rows = zlib.compress(bytes(2001))
    data = struct.pack(">I", len(rows)) + b"IDAT" + rows + struct.pack(">I", zlib.crc32(b"IDAT" + rows))
    path.write_bytes(png_header(20_000, 10_000) + data + struct.pack(">I", 0) + b"IEND\xaeB`\x82")


def turned(format: str, orientation: int) -> Write:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}}.get(format, {})
    return lambda path: Image.fromarray(COLOURS).save(path, format, exif=exif, **lossless)


def frames(path: Path) -> None:
    """The first is COLOURS."""
    others = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    Image.fromarray(COLOURS).save(path, save_all=True, append_images=others)


TWELVE = np.array([[0, 2048, 4095], [17, 1, 3000]], np.uint16)
TRANSPARENT = bytes(ALPHA.reshape(-1))  # of the colours of a palette
UPRIGHT = {
    1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1], 5: COLOURS.transpose(1, 0, 2),
    6: np.rot90(COLOURS, -1), 7: COLOURS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(COLOURS),
}  # fmt: skip

RIGHT: dict[str, tuple[str, Write, Any]] = {
    "16 bits, PNG": ("png", saved(Image.fromarray(DEEP)), grey(SCALED)),
    "16 bits, TIFF": ("tif", saved(Image.fromarray(DEEP)), grey(SCALED)),
    "16 bits, TIFF, packed": ("tif", saved(Image.fromarray(DEEP), compression="tiff_lzw"), grey(SCALED)),
    "16 bits, TIFF, big end first": ("tif", tiff(DEEP, 16, order=">"), grey(SCALED)),
    "16 bits, TIFF, zero is white": ("tif", tiff(DEEP, 16, photometric=0), grey(255 - SCALED)),
    "12 bits, TIFF": ("tif", tiff(TWELVE, 12), grey(np.array([[0, 128, 255], [1, 0, 187]]))),
    "16 bits, PGM": ("pgm", saved(Image.fromarray(DEEP)), grey(SCALED)),
    "10 bits, PGM": ("pgm", lambda path: path.write_text("P2 3 1 1023 0 512 1023"), grey(np.array([[0, 128, 255]]))),
    "16 bits, JPEG 2000": ("jp2", saved(Image.fromarray(DEEP)), grey(SCALED)),
    "1 bit": ("png", saved(Image.fromarray(ALPHA > 100)), grey(np.where(ALPHA > 100, 255, 0))),
    "RGBA": ("png", saved(with_alpha()), on_paper(COLOURS)),
    "RGBA, opaque": ("png", saved(picture("RGBA")), COLOURS),
    "RGBA, WebP": ("webp", saved(with_alpha(), lossless=True, exact=True), on_paper(COLOURS)),
    "LA": ("png", saved(with_alpha("LA")), on_paper(np.asarray(picture("L").convert("RGB")))),
    "palette": ("png", saved(palette()), COLOURS),
    "palette, shades of transparency": ("png", saved(palette(), transparency=TRANSPARENT), on_paper(COLOURS)),
    "palette, one transparent": (
        "png", saved(palette(), transparency=1), on_paper(COLOURS, np.array([[255, 0, 255], [255, 255, 255]])),
    ),
    "GIF, one transparent": (
        "gif", saved(palette(), transparency=4), on_paper(COLOURS, np.array([[255, 255, 255], [255, 0, 255]])),
    ),
    "RGB, one transparent": (
        "png", saved(picture("RGB"), transparency=(0, 200, 30)),
        on_paper(COLOURS, np.array([[255, 0, 255], [255, 255, 255]])),
    ),
    "16 bits, one transparent": (
        "png", saved(Image.fromarray(DEEP), transparency=12000), grey(np.array([[0, 255, 0], [117, 255, 1]])),
    ),
    **{f"frames, {ending}": (ending, frames, COLOURS) for ending in ("gif", "png", "tif")},
    **{
        f"turned {way}, {format}": (format.lower(), turned(format, way), upright)
        for format in ("PNG", "TIFF", "WEBP") for way, upright in UPRIGHT.items()
    },
}  # fmt: skip
"""Name -> ending, what writes the file, the pixels (H, W, 3)."""

NO_WHITE = "does not say which number is white. Save it with 8 or 16 bits"
TOO_LARGE = "has more than 178,956,970 pixels"
REFUSED: dict[str, tuple[str, Write, str]] = {
    "32 bits": ("tif", saved(Image.fromarray(DEEP.astype(np.int32))), NO_WHITE),
    "16 bits, signed": ("tif", tiff(DEEP.astype(np.int16), 16, sample_format=2), NO_WHITE),
    "floats": ("tif", saved(Image.fromarray(DEEP.astype(np.float32))), NO_WHITE),
    "floats, PFM": ("pfm", saved(Image.fromarray(DEEP.astype(np.float32))), NO_WHITE),
    "16 bits, FITS": ("fits", lambda path: path.write_bytes(fits(DEEP)), NO_WHITE),
    "too large": ("png", bomb, f"{TOO_LARGE}.* Make it smaller, or cut it into tiles"),
    "no image": ("jpg", lambda path: path.write_text("404 not found"), "no image that Pillow knows"),
    "empty": ("png", lambda path: path.touch(), "no image that Pillow knows"),
    "a folder": ("png", lambda path: path.mkdir(), "Is a directory"),
    "a link to nowhere": ("png", lambda path: path.symlink_to("nowhere"), "is not there"),
}
CUT = {"cut short": ("png", lambda path: path.write_bytes(cut_png()), "truncated")}


def cut_png() -> bytes:
    """A PNG without its end."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return file.getvalue()[:2000]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Write], Path]:
    """Writes an image; returns where."""

    def run(ending: str, writes: Write) -> Path:
        path = tmp_path / f"image.{ending}"
        writes(path)
        return path

    return run


@pytest.mark.parametrize("name", RIGHT)
def test_every_mode_is_read_with_the_right_pixels(name: str, write: Callable[[str, Write], Path]) -> None:
    ending, writes, expected = RIGHT[name]
    pixels = read_image(write(ending, writes))
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
    assert np.abs(pixels - np.asarray(expected, float)).max() <= (0 if expected.dtype != float else 0.51), pixels
    assert np.array_equal(read_image(write(ending, writes), "BGR"), pixels[..., ::-1])


FORMATS = {
    **dict.fromkeys(("1", "P"), ("png", "tif", "bmp", "gif", "ico", "icns")),
    **dict.fromkeys(("CMYK", "YCbCr"), ("jpg", "tif")),
    **dict.fromkeys(("L", "RGB"), ("png", "jpg", "tif", "bmp", "gif", "webp")),
}  # fmt: skip


@pytest.mark.parametrize(("mode", "ending"), [(mode, ending) for mode in FORMATS for ending in FORMATS[mode]])
def test_ordinary_images_are_read_as_detectron2_reads_them_bit_for_bit(mode: str, ending: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 1 if ending == "tif" else 8
    noise.save(tmp_path / f"image.{ending}", exif=exif)
    for order in ("RGB", "BGR"):
        theirs = detectron2_reads(str(tmp_path / f"image.{ending}"), order)
        assert np.array_equal(read_image(tmp_path / f"image.{ending}", order), theirs)


@pytest.mark.parametrize("name", RIGHT)
def test_an_image_of_pillows_has_the_pixels_of_its_file(name: str, write: Callable[[str, Write], Path]) -> None:
    path = write(*RIGHT[name][:2])
    with Image.open(path) as image:
        assert np.array_equal(pixels_of(image), read_image(path))
        assert np.array_equal(pixels_of(image), read_image(path)), "the second time"


def test_premultiplied_and_other_rare_modes_in_memory_are_read_or_refused() -> None:
    for mode in ("La", "RGBa", "PA", "RGBX", "LAB", "HSV", "I;16", "I;16B", "I;16L", "I;16N"):
        assert pixels_of(Image.new(mode, (3, 2))).shape == (2, 3, 3), mode
    for mode in ("I", "F"):
        with pytest.raises(UnreadableImage, match=rf"Image in memory \({mode}, 3 x 2\) .*{NO_WHITE}"):
            pixels_of(Image.new(mode, (3, 2)))
    with pytest.raises(UnreadableImage, match="0 x 2 pixels"):
        pixels_of(Image.new("RGB", (0, 2)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_data_leave_an_image_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "image.png", exif=b"Exif\0\0II*\0broken")
    assert np.array_equal(read_image(tmp_path / "image.png"), COLOURS)
    assert image_fault(str(tmp_path / "image.png"), 3, 2) is None


@pytest.mark.parametrize("name", REFUSED | CUT)
def test_what_cannot_be_read_is_refused_by_name_in_one_line(name: str, write: Callable[[str, Write], Path]) -> None:
    ending, writes, message = (REFUSED | CUT)[name]
    path = write(ending, writes)
    with pytest.raises(UnreadableImage, match=f"^Image {path} .*{message}.*$") as caught:
        read_image(path)
    assert isinstance(caught.value, MissingImage) == ("not there" in message)


def test_an_unknown_order_of_channels_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='INPUT.FORMAT is "L"; choose one of RGB, BGR'):
        read_image(tmp_path / "image.png", "L")


# ---- training and `check` agree ----


def size_of(name: str) -> tuple[int, int]:
    height, width, _ = RIGHT[name][2].shape
    return width, height


@pytest.fixture(scope="module")
def mappers() -> list[Any]:
    """What reads images for training, evaluation and banks."""
    cfg = setup_cfg(MINI, ["MODEL.CLIP.WEIGHTS", "''"])
    return [TrainMapper(cfg, [0]), evaluation_mapper(cfg), ReadImages(cfg, for_detector=True)]


def record_of(path: Path, size: tuple[int, int]) -> dict[str, Any]:
    return {"file_name": str(path), "image_id": 1, "width": size[0], "height": size[1], "annotations": []}


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_check_passes_training_reads(name: str, write: Callable[[str, Write], Path], mappers: Any) -> None:
    path = write(*RIGHT[name][:2])
    for decode in (False, True):
        assert image_fault(str(path), *size_of(name), decode) is None
        assert image_fault(str(path), 77, 77, decode) is not None
    for mapper in mappers:
        assert mapper(record_of(path, size_of(name)))["image"].shape[0] == 3


@pytest.mark.parametrize("name", REFUSED | CUT)
def test_what_training_refuses_the_check_reports(name: str, write: Callable[[str, Write], Path], mappers: Any) -> None:
    path = write(*(REFUSED | CUT)[name][:2])
    faults = [image_fault(str(path), 3, 2, decode) for decode in ((True,) if name in CUT else (False, True))]
    assert {fault[0] for fault in faults if fault} == {
        Kind.MISSING_IMAGE if "nowhere" in name else Kind.UNREADABLE_IMAGE
    }
    for mapper in mappers:
        with pytest.raises(UnreadableImage) as caught:
            mapper(record_of(path, (3, 2)))
        assert [fault[1] for fault in faults if fault] == [str(caught.value)] * len(faults), "both say the same"
