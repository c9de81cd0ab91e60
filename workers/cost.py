"""Cost: from an image whose header is read to the memory that its decoding takes, and a refusal of traps.

A header of 100 bytes decides how much memory a decoder asks for, so it is looked at before. The figures are peaks
measured with Pillow 13 on 100-megapixel images, in bytes for each pixel, rounded up.
"""

import re

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from workers.errors import ImageUndecodable

#: Formats whose decoders keep copies of their own: 16.0, 19.4 and 9.2 were measured.
FORMAT_BYTES = {"WEBP": 17, "JPEG2000": 20, "AVIF": 10}

#: Modes whose pixels are converted before they are resized; Pillow keeps RGB and its like in 4 bytes.
MODE_BYTES = {"L": 1, "1": 5, "P": 5, "PA": 8, "LA": 8, "RGBA": 8, "I;16": 6, "I;16L": 6, "I;16B": 6, "I;16N": 6}
PIXEL_BYTES = 4

#: A JPEG of several scans is kept as coefficients, and no fraction of it can be decoded: 6.1 for three colours.
COEFFICIENT_BYTES = 2.1

#: Decoding time grows by the scans: 0.1 MB that say 1,000 of 25 megapixels took 8 s. Cameras and web tools write 10.
MAX_SCANS = 200

#: JPEG's markers with a length behind them, and its end; in a scan's data 0xFF goes before a zero or a restart alone.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_SCAN, _END = 0xDA, 0xD9

#: TIFF's tags for the size of a tile.
TILE_WIDTH, TILE_LENGTH = 322, 323


def decoding_bytes(image: Image.Image, body: bytes, draft: tuple[int, int]) -> int:
    """Memory at the peak of decoding and resizing; `draft` is the size that JPEG's own scaling must not go below.

    Raises ImageUndecodable where a file of few bytes would keep a decoder busy for minutes.
    """
    pixels = image.width * image.height
    if isinstance(image, JpegImageFile):
        scans = count_scans(body)
        if scans > MAX_SCANS:
            raise ImageUndecodable(f"a JPEG of more than {MAX_SCANS} scans")
        coefficients = COEFFICIENT_BYTES * len(image.getbands()) * pixels if scans > 1 else 0
        return int(coefficients + 2 * PIXEL_BYTES * pixels / draft_scale(image, draft) ** 2)
    if isinstance(image, TiffImageFile):
        # A tile is decoded whole, however small the part of it that the image shows.
        pixels = max(pixels, image.tag_v2.get(TILE_WIDTH, 0) * image.tag_v2.get(TILE_LENGTH, 0))
    each = FORMAT_BYTES.get(image.format or "") or MODE_BYTES.get(image.mode, PIXEL_BYTES)
    return pixels * (each + PIXEL_BYTES * _may_be_turned(image, body))


def draft_scale(image: Image.Image, draft: tuple[int, int]) -> int:
    """A JPEG is decoded at one over 1, 2, 4 or 8 of its size, as Pillow chooses it."""
    room = min(image.width // draft[0], image.height // draft[1])
    return max(scale for scale in (1, 2, 4, 8) if scale <= max(1, room))


def count_scans(body: bytes) -> int:
    """Scans of a JPEG, as a decoder walks it: a preview inside its header is none; MAX_SCANS + 1 stands for more."""
    if body.count(b"\xff\xda") <= 1:
        return 1
    scans = at = 0
    while scans <= MAX_SCANS and (found := _MARKER.search(body, at)) and found[1][0] != _END:
        scans += found[1][0] == _SCAN
        at = found.end() + int.from_bytes(body[found.end() : found.end() + 2], "big")
    return scans


def _may_be_turned(image: Image.Image, body: bytes) -> bool:
    """Whether it holds EXIF, whose orientation may ask for a copy; reading it may decode a PNG, so that waits."""
    if isinstance(image, TiffImageFile):
        return bool(image.tag_v2.get(ExifTags.Base.Orientation, 1) != 1)
    return "exif" in image.info or b"eXIf" in body or b"Raw profile type" in body
