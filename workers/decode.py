"""Decode: from samples that hold bytes to samples that hold pixels of the network's size, or the reason why not."""

import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL import _imaging as core
from PIL.TiffImagePlugin import TiffImageFile

from config.models import ModelSpec
from config.settings import Settings
from workers.ahead import Budget, map_ahead
from workers.cost import decoding_bytes
from workers.errors import ImageError, ImageTooLarge, ImageUndecodable
from workers.quiet import silence_pillow
from workers.sample import Pixels, Sample
from workers.turns import locked

#: What Pillow's decoders raise on bytes that are no good image; MemoryError must not leave a task at all.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    AssertionError,
    BufferError,
    SystemError,
    StopIteration,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # where a person makes errors of them
)

#: A JPEG is decoded at 1/2, 1/4 or 1/8 when that leaves at least so many times the pixels that are needed;
#: Pillow's documentation of `reducing_gap` calls 2.0 close to fair resampling.
REDUCING_GAP = 2.0

#: Modes with more than 8 bits for a channel. Pillow's own conversion cuts them off at 255.
DEEP_MODES = {"I;16", "I;16L", "I;16B", "I;16N"}

#: Modes whose pixels are no amounts of light, so they become RGB before they are resized.
INDEXED_MODES = {"1", "P", "PA"}

#: EXIF orientation -> what turns the image upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED_SIDEWAYS = {5, 6, 7, 8}

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

silence_pillow()

# Pillow asks for large images in blocks. glibc gives those above 32 MiB back when they are freed; of 16 MiB, Pillow's
# own, threads kept 770 MB between images of 100 megapixels and 127 MB with these (measured).
core.set_block_size(64 * 2**20)

# The limit on pixels is ours (Settings.max_image_pixels): Pillow's warns at one and raises at two of its own.
Image.MAX_IMAGE_PIXELS = None

# Pillow knows most formats only after it was asked for one that it does not know.
Image.init()

#: Formats that are tried, where this Pillow has them. Left out are those that start a program (EPS), read other
#: files, or are decoded before anybody can ask for their size (ICO). JPEG's opener also takes the pictures of an MPO.
WANTED_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "TGA", "AVIF")
FORMATS = tuple(name for name in WANTED_FORMATS if name in Image.OPEN)

#: Pixels of a side that a row can say; a header may say more, and what a row cannot hold ends its whole chunk.
LONGEST_SIDE = 2**31 - 1

#: Images of one process share so much of `decode_bytes`; a larger one has its turn, one at a time on a machine.
SHARE = 4


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What decoding may use: threads of this process; memory of the machine, where large images wait in `turns`."""

    threads: int
    max_image_pixels: int
    decode_bytes: int
    turns: Path

    @classmethod
    def of(cls, settings: Settings, threads: int) -> Self:
        """What the settings allow."""
        turns = settings.cache_dir / "decode.lock"
        return cls(threads, settings.max_image_pixels, settings.decode_bytes, turns)


def decode_images(samples: Iterable[Sample], spec: ModelSpec, limits: DecodeLimits, bodies: Budget) -> Iterator[Sample]:
    """Samples in order with pixels of `spec.input_shape`; their bytes are let go.

    `bodies` is the budget of the bytes that came with the samples; `limits` bounds the memory of decoding.
    """
    decoding = Budget(limits.decode_bytes // SHARE)

    def decode(sample: Sample) -> Sample:
        started = time.perf_counter()
        try:
            return _decode(sample, spec, limits, decoding)
        finally:
            sample.decode_s = time.perf_counter() - started
            sample.body = None
            bodies.release(sample.index)
            decoding.release(sample.index)

    return map_ahead(decode, samples, limits.threads, 4 * limits.threads, on_close=decoding.close)


def _decode(sample: Sample, spec: ModelSpec, limits: DecodeLimits, decoding: Budget) -> Sample:
    if sample.body is None:
        return sample  # already failed: pass it on, the writer will say so
    try:
        image = open_image(sample.body)
        if max(image.size) <= LONGEST_SIDE:
            sample.width, sample.height = image.size
        needed = _check_size(image, sample.body, spec, limits)
        decoding.acquire(sample.index, needed)
        # Whoever has the turn waits for nothing else, so it comes round.
        with locked(limits.turns) if needed > limits.decode_bytes // SHARE else nullcontext():
            turn = orientation(image) if spec.exif == "upright" else 1
            if turn in TURNED_SIDEWAYS:
                sample.width, sample.height = image.height, image.width
            sample.pixels = to_pixels(image, spec, turn)
    except ImageError as error:
        return sample.failed(error)
    except MemoryError:
        return sample.failed(ImageTooLarge("not enough memory to decode it"))
    except DECODER_ERRORS as error:
        return sample.failed(ImageUndecodable(f"{type(error).__name__}: {error}"))
    return sample


def _check_size(image: Image.Image, body: bytes, spec: ModelSpec, limits: DecodeLimits) -> int:
    """The bytes that decoding takes, where they and the pixels are within the limits."""
    if image.width * image.height > limits.max_image_pixels:
        raise ImageTooLarge(f"{image.width} × {image.height} pixels, {limits.max_image_pixels} are allowed")
    needed = decoding_bytes(image, body, _draft_size(image, spec, 1))
    if needed > limits.decode_bytes:
        what = f"{image.width} × {image.height} pixels of {image.format} ({image.mode})"
        raise ImageTooLarge(f"{what} take {needed >> 20} MiB to decode, {limits.decode_bytes >> 20} are allowed")
    return needed


def open_image(body: bytes) -> Image.Image:
    """An image whose header is read and whose pixels are not."""
    try:
        return Image.open(BytesIO(body), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageUndecodable("no image format that is known") from error


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 is upright. A PNG may be decoded for it, so check its size before."""
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns a TIFF itself, while it decodes it
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def to_pixels(image: Image.Image, spec: ModelSpec, turn: int = 1) -> Pixels:
    """Turn upright, resize by the policy of `spec`, and give uint8 height × width × 3 in RGB.

    An alpha channel is dropped and the first frame of an animation taken, as keras.utils.load_img does.
    """
    image.draft(None, _draft_size(image, spec, turn))
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    if image.mode in DEEP_MODES:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in INDEXED_MODES:
        image = image.convert("RGB")
    resized = image.resize((spec.width, spec.height), FILTERS[spec.resize_filter], box=_box(image, spec))
    return np.asarray(resized.convert("RGB"))


def _draft_size(image: Image.Image, spec: ModelSpec, turn: int) -> tuple[int, int]:
    """The size that JPEG's scaled decoding must not go below: each side keeps REDUCING_GAP times what it will get."""
    if turn in TURNED_SIDEWAYS:
        down, across = _resized((image.height, image.width), spec)
    else:
        across, down = _resized(image.size, spec)
    return int(across * REDUCING_GAP), int(down * REDUCING_GAP)


def _resized(size: tuple[int, int], spec: ModelSpec) -> tuple[int, int]:
    """Width and height of the whole image after resizing, before any crop."""
    if spec.resize == "squash":
        return spec.width, spec.height
    (width, height), (tall, wide) = size, spec.covered
    scale = max(wide / width, tall / height)
    return max(wide, round(width * scale)), max(tall, round(height * scale))


def _box(image: Image.Image, spec: ModelSpec) -> tuple[float, float, float, float]:
    """The part of the image that reaches the network: only these pixels are resampled.

    `squash` takes all of it. `crop` is "resize to cover `spec.covered` (the shorter side to 256 for a square of 224),
    then the centre": the box is that centre, written in the pixels of the image before resizing, which gives the
    same numbers for less work.
    """
    width, height = image.size
    if spec.resize == "squash":
        return 0, 0, width, height
    whole = _resized(image.size, spec)
    left, top = (whole[0] - spec.width) // 2, (whole[1] - spec.height) // 2
    across, down = width / whole[0], height / whole[1]
    return left * across, top * down, (left + spec.width) * across, (top + spec.height) * down
