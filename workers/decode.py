"""Decode: from samples that hold bytes to samples that hold pixels of the network's size, or the reason why not."""

import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from config.models import ModelSpec
from workers.ahead import Budget, map_ahead
from workers.errors import ImageError, ImageTooLarge, ImageUndecodable
from workers.sample import Pixels, Sample

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
    struct.error,
    zlib.error,
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

# The limit on pixels is ours (Settings.max_image_pixels): Pillow's warns at one and raises at two of its own.
Image.MAX_IMAGE_PIXELS = None

# Pillow knows most formats only after it was asked for one that it does not know.
Image.init()

#: Formats that are tried, where this Pillow has them. Left out are those that start a program (EPS) or read other
#: files. JPEG's opener also takes the several pictures of an MPO.
WANTED_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "ICO", "TGA", "AVIF")
FORMATS = tuple(name for name in WANTED_FORMATS if name in Image.OPEN)


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What decoding may use at once in one process."""

    threads: int
    max_image_pixels: int
    decode_pixels: int


def decode_images(samples: Iterable[Sample], spec: ModelSpec, limits: DecodeLimits, bodies: Budget) -> Iterator[Sample]:
    """Samples in order with pixels of `spec.input_size` × `spec.input_size` × 3; their bytes are let go.

    `bodies` is the budget of the bytes that came with the samples; `limits` bounds the pixels being decoded.
    """
    decoding = Budget(limits.decode_pixels)

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
        sample.width, sample.height = image.size
        pixels = image.width * image.height
        if pixels > limits.max_image_pixels:
            raise ImageTooLarge(f"{image.width} × {image.height} pixels, {limits.max_image_pixels} are allowed")
        decoding.acquire(sample.index, pixels)
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


def open_image(body: bytes) -> Image.Image:
    """An image whose header is read and whose pixels are not."""
    try:
        return Image.open(BytesIO(body), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageUndecodable("no image format that is known") from error


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 is upright. A PNG may be decoded for it, so check its size before."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def to_pixels(image: Image.Image, spec: ModelSpec, turn: int = 1) -> Pixels:
    """Turn upright, resize by the policy of `spec`, and give uint8 height × width × 3 in RGB.

    An alpha channel is dropped and the first frame of an animation taken, as keras.utils.load_img does.
    """
    image.draft(None, _draft_size(image, int(spec.resize_side * REDUCING_GAP)))
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    if image.mode in DEEP_MODES:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in INDEXED_MODES:
        image = image.convert("RGB")
    resized = image.resize((spec.input_size, spec.input_size), FILTERS[spec.resize_filter], box=_box(image, spec))
    return np.asarray(resized.convert("RGB"))


def _draft_size(image: Image.Image, shorter: int) -> tuple[int, int]:
    """The size that JPEG's scaled decoding must not go below, in the image's own proportions."""
    scale = shorter / min(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _box(image: Image.Image, spec: ModelSpec) -> tuple[float, float, float, float]:
    """The part of the image that reaches the network: only these pixels are resampled.

    `squash` takes all of it. `crop` is "shorter side to `resize_side`, then the centre": the box is that
    centre, written in the pixels of the image before resizing, which gives the same numbers for less work.
    """
    width, height = image.size
    if spec.resize == "squash":
        return 0, 0, width, height
    scale = spec.resize_side / min(width, height)
    whole = max(spec.resize_side, round(width * scale)), max(spec.resize_side, round(height * scale))
    left, top = (whole[0] - spec.input_size) // 2, (whole[1] - spec.input_size) // 2
    across, down = width / whole[0], height / whole[1]
    return left * across, top * down, (left + spec.input_size) * across, (top + spec.input_size) * down
