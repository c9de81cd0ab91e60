"""Mutants: from a number to a small image file that was damaged on purpose, the same one for the same number."""

import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from tests.images import READABLE, encoded, picture

#: Values at which a decoder's arithmetic may go wrong.
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 30_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)

#: Bytes at the beginning of a file in which every format has its sizes and offsets.
HEADER_BYTES = 96


class Change(NamedTuple):
    """One damage: what is done, where (taken modulo the file's length), over how many bytes, and with what."""

    kind: str
    at: int
    length: int
    value: int


def _small(mode: str = "RGB") -> Image.Image:
    return picture(61, 43, mode)


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return encoded(_small(), "JPEG", exif=exif, icc_profile=bytes(200))


def _interlaced_png() -> bytes:
    """Pillow writes none, so: a grey 8 × 8 with Adam7's seven passes."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    rows = b"".join((b"\0" + bytes(range(width))) * height for width, height in passes)
    return png(struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1), [rows])


def png(header: bytes, rows: Iterable[bytes]) -> bytes:
    """A PNG from what its header says and from its raw rows; one row again and again packs well."""
    packer = zlib.compressobj(1)
    data = b"".join([*map(packer.compress, rows), packer.flush()])
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with a checksum that is right."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _seeds() -> dict[str, bytes]:
    """Small files of every format, and of every variant that other code of the decoder reads."""
    deep = Image.fromarray(np.arange(61 * 43, dtype=np.uint16).reshape(43, 61) * 20)
    frames = {"save_all": True, "append_images": [_small("L").convert("RGB"), ImageOps.mirror(_small())]}
    return {
        "jpeg": encoded(_small(), "JPEG"),
        "jpeg progressive": encoded(_small(), "JPEG", progressive=True),
        "jpeg cmyk": encoded(_small("CMYK"), "JPEG"),
        "jpeg restarts": encoded(_small("L"), "JPEG", restart_marker_blocks=2),
        "jpeg exif": _with_exif(),
        "mpo": encoded(_small(), "MPO", **frames),
        "png": encoded(_small(), "PNG"),
        "png alpha": encoded(_small("RGBA"), "PNG"),
        "png palette": encoded(_small().quantize(16), "PNG", transparency=0),
        "png deep": encoded(deep, "PNG"),
        "png interlaced": _interlaced_png(),
        "png animated": encoded(_small(), "PNG", **frames),
        "png exif": encoded(_small(), "PNG", exif=Image.open(BytesIO(_with_exif())).getexif(), icc_profile=bytes(99)),
        "gif": encoded(_small(), "GIF"),
        "gif animated": encoded(_small(), "GIF", **frames),
        "webp": encoded(_small(), "WEBP"),
        "webp lossless": encoded(_small("RGBA"), "WEBP", lossless=True),
        "webp animated": encoded(_small(), "WEBP", **frames),
        "tiff": encoded(_small(), "TIFF"),
        "tiff lzw": encoded(_small(), "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(_small(), "TIFF", compression="jpeg"),
        "tiff fax": encoded(_small("1"), "TIFF", compression="group4"),
        "tiff packbits": encoded(_small("RGBA"), "TIFF", compression="packbits"),
        "tiff deep": encoded(deep, "TIFF", compression="tiff_adobe_deflate"),
        "bmp": encoded(_small(), "BMP"),
        "bmp palette": encoded(_small().quantize(16), "BMP"),
        "bmp 1 bit": encoded(_small("1"), "BMP"),
        "dib": encoded(_small(), "DIB"),
        "ppm": encoded(_small(), "PPM"),
        "ppm text": b"P3 4 4 255 " + b"1 2 3 " * 16,
        "tga": encoded(_small("RGBA"), "TGA", compression="tga_rle"),
        "jpeg2000": encoded(_small(), "JPEG2000"),
        "avif": encoded(_small(), "AVIF", speed=10),
        "ico": encoded(_small("RGBA"), "ICO"),
        "exif-rotated": READABLE["exif-rotated"],
    }


SEEDS = _seeds()
_NAMES = tuple(SEEDS)


def _flip(body: bytearray, at: int, length: int, value: int) -> None:
    body[at] ^= 1 << (value % 8)


def _overwrite(body: bytearray, at: int, length: int, value: int) -> None:
    body[at : at + length] = bytes([value % 256]) * len(body[at : at + length])


def _truncate(body: bytearray, at: int, length: int, value: int) -> None:
    del body[at:]


def _cut_out(body: bytearray, at: int, length: int, value: int) -> None:
    del body[at : at + length]


def _repeat(body: bytearray, at: int, length: int, value: int) -> None:
    body[at:at] = bytes(body[at : at + length]) * (1 + value % 8)


def _splice(body: bytearray, at: int, length: int, value: int) -> None:
    other = SEEDS[_NAMES[value % len(_NAMES)]]
    body[at : at + length] = other[at % len(other) :][: 4 * length]


def _field(form: str) -> Callable[[bytearray, int, int, int], None]:
    size = struct.calcsize(form)

    def write(body: bytearray, at: int, length: int, value: int) -> None:
        edge = EDGES[value % len(EDGES)] % 256**size
        body[at : at + size] = struct.pack(form, edge)[: len(body) - at]

    return write


CHANGES: dict[str, Callable[[bytearray, int, int, int], None]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "truncate": _truncate,
    "cut out": _cut_out,
    "repeat": _repeat,
    "splice": _splice,
    "field 8": _field("B"),
    "field 16 big": _field(">H"),
    "field 16 little": _field("<H"),
    "field 32 big": _field(">I"),
    "field 32 little": _field("<I"),
}


def changed(name: str, changes: Sequence[Change]) -> bytes:
    """The seed of this name after these changes; a PNG gets its checksums right again, or nobody would look inside."""
    body = bytearray(SEEDS[name])
    for change in changes:
        if body:
            CHANGES[change.kind](body, change.at % len(body), 1 + change.length % 64, change.value)
    return _checksummed(bytes(body)) if body.startswith(b"\x89PNG") else bytes(body)


def mutant(number: int) -> tuple[str, bytes]:
    """What was done to what, and the file that came of it."""
    draw = random.Random(number)
    name = draw.choice(_NAMES)
    changes = [_draw_change(draw, len(SEEDS[name])) for _ in range(draw.choice((1, 1, 1, 2, 3, 8)))]
    return f"{number}: {name}, {', '.join(change.kind for change in changes)}", changed(name, changes)


def _draw_change(draw: random.Random, size: int) -> Change:
    near = HEADER_BYTES if draw.random() < 0.6 else size
    return Change(draw.choice(tuple(CHANGES)), draw.randrange(near), draw.randrange(64), draw.randrange(1 << 16))


def _checksummed(body: bytes) -> bytes:
    made, at = bytearray(body[:8]), 8
    while at + 12 <= len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        if at + 12 + size > len(body):
            break
        made += png_chunk(body[at + 4 : at + 8], body[at + 8 : at + 8 + size])
        at += 12 + size
    return bytes(made) + body[at:]
