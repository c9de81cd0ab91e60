"""Images that the tests draw: good ones of every kind, and what a bucket holds in their place."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def picture(width: int = 400, height: int = 300, mode: str = "RGB") -> Image.Image:
    """Left half red, right half blue, a green band on top: turns and swapped channels show."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    pixels[: height // 8] = (0, 255, 0)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, fmt: str = "JPEG", **options: Any) -> bytes:
    """The image as a file."""
    body = BytesIO()
    image.save(body, fmt, **options)
    return body.getvalue()


def noise(seed: int, width: int = 64, height: int = 48) -> bytes:
    """A small JPEG that differs from every other seed's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return encoded(Image.fromarray(pixels), quality=60)


def bomb(side: int = 30_000) -> bytes:
    """A grey PNG of side × side pixels whose file is about 1 KB."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1_000_000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def turned(orientation: int) -> bytes:
    """`picture` as a camera stores it that was held otherwise: sideways pixels, and EXIF that says so."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(picture() if undo is None else picture().transpose(undo), "PNG", exif=exif)


#: What Pillow reads, by kind.
READABLE = {
    "jpeg": encoded(picture()),
    "grey jpeg": encoded(picture(mode="L")),
    "cmyk jpeg": encoded(picture(mode="CMYK")),
    "progressive jpeg": encoded(picture(), progressive=True),
    "png": encoded(picture(), "PNG"),
    "png with alpha": encoded(picture(mode="RGBA"), "PNG"),
    "palette png with alpha": encoded(picture(mode="RGBA").quantize(16), "PNG", transparency=0),
    "16-bit png": encoded(Image.fromarray(np.full((300, 400), 40_000, np.uint16)), "PNG"),
    "1-bit tiff": encoded(picture(mode="1"), "TIFF"),
    "16-bit tiff": encoded(Image.fromarray(np.full((300, 400), 40_000, np.uint16)), "TIFF"),
    "animated gif": encoded(picture(), "GIF", save_all=True, append_images=[picture(mode="L").convert("RGB")]),
    "exif-rotated": turned(6),
    "webp": encoded(picture(), "WEBP"),
    "bmp": encoded(picture(), "BMP"),
    "one pixel": encoded(picture(1, 1), "PNG"),
    "thin": encoded(picture(3_000, 2), "PNG"),
}

#: What cannot be read, by kind, with the status its row must have.
UNREADABLE = {
    "empty": (b"", "empty"),
    "truncated jpeg": (READABLE["jpeg"][:-400], "undecodable"),
    "truncated png": (READABLE["png"][:-40], "undecodable"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "undecodable"),
    "header alone": (READABLE["jpeg"][:20], "undecodable"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "undecodable"),
    "bomb": (bomb(), "too_large"),
}

#: Keys that trip up software which takes them for paths or URLs. seaweedfs takes no dot segments; S3 does.
AWKWARD_KEYS = (
    "a+b.jpg",
    "a b.jpg",
    "ünï/日本.jpg",
    "a%2Fb.jpg",
    "a%20b.jpg",
    "new\nline.jpg",
    "tab\t.jpg",
    "tilde~star*.jpg",
    "q?x=1&y.jpg",
    "hash#a.jpg",
    "quote\"'.jpg",
    "100%.jpg",
    "[x]{y}|^`<>.jpg",
    "no-suffix",
)
