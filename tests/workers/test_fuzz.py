"""Damaged images: whatever the bytes, a sample has pixels or a status, in bounded time and memory, and nobody dies."""

import json
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from config.results import Status
from tests.fuzzer import check, decode_all
from tests.images import READABLE, encoded, picture, turned
from tests.mutants import CHANGES, SEEDS, Change, changed, png
from workers.cost import MAX_SCANS, count_scans
from workers.decode import FORMATS, DecodeLimits

ROOT = Path(__file__).resolve().parents[2]

#: Mutants of the suite, and their seed; `python -W error -m tests.fuzzer` goes on from another one for longer.
MUTANTS, SEED = 1_500, 1

#: MB by which 1,500 mutants of up to 4 megapixels may raise a process's memory, and seconds for 8 of them together.
MOST_MB, MOST_S = 300.0, 30.0


@pytest.fixture
def limits(tmp_path: Path) -> DecodeLimits:
    return DecodeLimits(2, 178_956_970, 2**30, tmp_path / "turns")


def test_a_walk_of_mutants_kills_nothing_and_grows_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.fuzzer", "--seed", str(SEED), "--count", str(MUTANTS)]
    keep = tmp_path / "in-hand"
    done = subprocess.run([*command, "--keep", str(keep)], cwd=ROOT, capture_output=True, text=True, check=False)
    in_hand = keep.read_text() if keep.is_file() else "the first ones"
    assert done.returncode == 0, f"{' '.join(command)} ended over {in_hand}: {done.stderr[-2000:]}"
    if (Path(PIL.__file__).parent.with_name("pillow.libs")).is_dir():
        assert done.stderr == ""  # the rows say what is wrong with images, not the log
    found = json.loads(done.stdout)
    assert set(found["counts"]) == {"ok", "undecodable", "too_large"}
    assert sum(found["counts"].values()) >= MUTANTS
    assert found["slowest_s"][0] < MOST_S, found
    assert found["whole_growth_mb"] < MOST_MB, found


CHANGES_OF_A_FILE = st.lists(
    st.builds(
        Change,
        kind=st.sampled_from(sorted(CHANGES)),
        at=st.integers(0, 4095),
        length=st.integers(0, 63),
        value=st.integers(0, 65_535),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # limits are frozen
)
@given(name=st.sampled_from(sorted(SEEDS)), changes=CHANGES_OF_A_FILE)
def test_any_damage_to_any_format_ends_in_pixels_or_a_status(
    limits: DecodeLimits, name: str, changes: list[Change]
) -> None:
    before, sample, after = decode_all([READABLE["jpeg"], changed(name, changes), READABLE["png"]], limits)
    check(sample)
    assert (before.status, after.status) == (Status.OK, Status.OK)


def test_the_undamaged_seeds_are_images(limits: DecodeLimits) -> None:
    known = {name: body for name, body in SEEDS.items() if name != "ico"}
    samples = decode_all(list(known.values()), limits)
    assert {name: sample.error for name, sample in zip(known, samples, strict=True) if sample.error} == {}


# --- What was found ----------------------------------------------------------------------------------------------


def _tiff(width: int, tile: int) -> bytes:
    """A grey TIFF in one tile of any size."""
    data = zlib.compress(bytes(1000))
    tags = [(256, width), (257, width), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile)]
    tags += [(324, 8), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def _ico(body: bytes) -> bytes:
    """An icon that says 16 × 16 and holds something else."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(body), 22) + body


def _flat_png(side: int) -> bytes:
    return png(struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), [bytes(side + 1)] * side)


def _scans(times: int) -> bytes:
    """A progressive JPEG whose second scan comes again and again."""
    body = encoded(Image.new("L", (2_000, 2_000)), progressive=True)
    second = body.find(b"\xff\xda", body.find(b"\xff\xda") + 2)
    scan = body[second : body.find(b"\xff", second + 2)]
    return body[:-2] + times * scan + b"\xff\xd9"


#: What was found by the fuzzer or by reading Pillow, each with its status and a word of its error.
FOUND = {
    # AssertionError, which nobody caught: the task failed, and Celery acknowledged its chunk
    "a PNG without the palette that it speaks of": (
        changed("png palette", [Change("flip", SEEDS["png palette"].index(b"PLTE") + 2, 0, 0)]),
        Status.UNDECODABLE,
        "AssertionError",
    ),
    # wider than the int32 of a row's column: no row of the whole chunk could be written
    "a PNG of 4,294,901,821 pixels across": (
        changed("png", [Change("field 16 big", SEEDS["png"].index(b"IHDR") + 4, 0, 8)]),
        Status.TOO_LARGE,
        "pixels",
    ),
    # 2 GB of memory in 8 s for 200 bytes
    "a tile of 2 gigapixels in a TIFF of 64 × 64": (_tiff(64, 46_000), Status.TOO_LARGE, "2017 MiB"),
    # decoded while it was opened, before its size could be looked at
    "a large PNG in an icon of 16 × 16": (_ico(_flat_png(14_000)), Status.UNDECODABLE, "no image format"),
    # 8 ms each at 25 megapixels, and 64 MB hold 600,000 of them
    "a JPEG of 1,000 scans": (_scans(1_000), Status.UNDECODABLE, f"more than {MAX_SCANS} scans"),
    # decoders that keep four or five copies: 1.6 GB and 1.9 GB at 100 megapixels
    "38 bytes of WebP with 100 megapixels": (
        encoded(Image.new("RGB", (10_000, 10_000)), "WEBP", lossless=True, method=0, quality=0),
        Status.TOO_LARGE,
        "WEBP",
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_stays_mended(what: str, limits: DecodeLimits) -> None:
    body, status, word = FOUND[what]
    (sample,) = decode_all([body], limits)
    check(sample)
    assert status in (None, sample.status)
    assert word in (sample.error or "")


def test_scans_are_counted_as_a_decoder_sees_them() -> None:
    assert count_scans(READABLE["jpeg"]) == 1
    assert count_scans(READABLE["progressive jpeg"]) == 10
    assert count_scans(_scans(5)) == encoded(Image.new("L", (2_000, 2_000)), progressive=True).count(b"\xff\xda") + 5
    preview = Image.Exif()
    preview[0x010E] = "a preview \xff\xda in EXIF"
    assert count_scans(encoded(picture(), exif=preview, comment=b"\xff\xda\xff\xda")) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int, limits: DecodeLimits) -> None:
    image = Image.open(BytesIO(turned(orientation)))
    sample, upright = decode_all([encoded(image, "TIFF", exif=image.getexif()), encoded(picture(), "PNG")], limits)
    assert (sample.width, sample.height) == (400, 300)
    assert sample.pixels is not None
    assert (sample.pixels == upright.pixels).all()


def test_no_format_starts_a_program_or_opens_other_files() -> None:
    assert not {"EPS", "ICO", "WMF", "FPX", "MIC", "GRIB", "HDF5", "BUFR"} & set(FORMATS)
