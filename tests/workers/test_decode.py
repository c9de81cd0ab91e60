"""Decoding: every kind of image a bucket may hold becomes pixels, or the right status."""

import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from config.models import MODELS, ModelSpec
from config.results import Status
from tests.images import ORIENTATION, READABLE, UNREADABLE, bomb, encoded, picture, turned
from workers.ahead import Budget
from workers.decode import DecodeLimits, decode_images, to_pixels
from workers.sample import Sample

SPEC = MODELS["efficientnet_lite0"]
SQUASH = SPEC.model_copy(update={"resize": "squash"})
LIMITS = DecodeLimits(2, max_image_pixels=50_000_000, decode_bytes=2**30, turns=Path(tempfile.gettempdir()) / "unused")


def decode(*bodies: bytes) -> list[Sample]:
    budget = Budget(10**9)
    samples = [Sample(index, f"{index}.jpg", body=body) for index, body in enumerate(bodies)]
    return list(decode_images(samples, SPEC, LIMITS, budget))


@pytest.mark.parametrize("kind", READABLE)
def test_what_pillow_reads_becomes_pixels(kind: str) -> None:
    (sample,) = decode(READABLE[kind])
    assert (sample.status, sample.error) == (Status.OK, None)
    assert sample.pixels is not None
    assert sample.pixels.shape == (224, 224, 3)
    assert sample.pixels.dtype == np.uint8
    assert sample.body is None


@pytest.mark.parametrize("kind", sorted(UNREADABLE.keys() - {"empty"}))
def test_what_cannot_be_read_has_a_status_and_harms_no_neighbour(kind: str) -> None:
    body, status = UNREADABLE[kind]
    before, sample, after = decode(READABLE["jpeg"], body, READABLE["png"])
    assert sample.status == status
    assert sample.error
    assert sample.pixels is None
    assert before.pixels is not None
    assert after.pixels is not None


def test_a_bomb_says_its_size() -> None:
    (sample,) = decode(bomb())
    assert (sample.width, sample.height) == (30_000, 30_000)


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    for kind in ("16-bit png", "16-bit tiff"):
        (sample,) = decode(READABLE[kind])
        assert sample.pixels is not None
        assert np.abs(sample.pixels.astype(int) - 40_000 // 256).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_are_undone(orientation: int) -> None:
    sample, upright = decode(turned(orientation), encoded(picture(), "PNG"))
    assert (sample.width, sample.height) == (400, 300)
    assert sample.pixels is not None
    np.testing.assert_array_equal(sample.pixels, upright.pixels)


def test_the_crop_is_the_centre_of_the_resized_image() -> None:
    image = picture(500, 375)
    whole = image.resize((341, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((58, 16, 282, 240)))
    assert np.abs(to_pixels(image, SPEC).astype(int) - expected).max() <= 1


def test_squash_takes_the_whole_image() -> None:
    image = picture(500, 375)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_pixels(image, SQUASH), expected)


#: Networks whose input is a square, lies, and stands.
SHAPES = {"square": {}, "lying": {"input_size": 100, "input_width": 180}, "standing": {"input_width": 96}}


def by_hand(image: Image.Image, spec: ModelSpec) -> Image.Image:
    """Turned upright, resized as a whole, and then cut: what the policies say, in as many steps."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    filter_ = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[spec.resize_filter]
    if spec.resize == "squash":
        return image.resize((spec.width, spec.height), filter_)
    scale = max(round(spec.width * 256 / 224) / image.width, round(spec.height * 256 / 224) / image.height)
    whole = image.resize((round(image.width * scale), round(image.height * scale)), filter_)
    left, top = (whole.width - spec.width) // 2, (whole.height - spec.height) // 2
    return whole.crop((left, top, left + spec.width, top + spec.height))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("size", [(500, 375), (300, 620)])
def test_both_policies_are_what_pillow_does_by_hand(shape: str, resize: str, size: tuple[int, int]) -> None:
    spec = SPEC.model_copy(update={"resize": resize, **SHAPES[shape]})
    image = picture(*size)
    pixels = to_pixels(image, spec)
    assert pixels.shape == spec.input_shape
    apart = np.abs(pixels.astype(int) - np.asarray(by_hand(image, spec)))
    assert np.mean(apart > 1) < 1e-4  # where two edges cross, what overshoots is cut off in another order
    assert apart.max() <= 5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_jpeg_is_squashed_upright_and_near_what_pillow_does_by_hand(shape: str) -> None:
    """It is decoded at a half or a quarter, and lies on its side in the file."""
    spec = SQUASH.model_copy(update=SHAPES[shape])
    lying = picture(2_400, 1_500).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    body = encoded(lying, quality=95, exif=exif)
    sample = Sample(0, "k", body=body)
    [decoded] = decode_images([sample], spec, LIMITS, Budget(10**9))
    assert (decoded.width, decoded.height) == (2_400, 1_500)
    assert decoded.pixels is not None
    apart = np.abs(decoded.pixels.astype(int) - np.asarray(by_hand(Image.open(BytesIO(body)), spec)))
    assert apart.mean() < 1.0


@pytest.mark.parametrize(
    ("height", "width", "decoded"), [(100, 280, (375, 600)), (280, 100, (750, 1_200)), (400, 800, (1_500, 2_400))]
)
def test_a_jpeg_is_decoded_at_a_fraction_of_which_twice_the_input_is_left(
    height: int, width: int, decoded: tuple[int, int]
) -> None:
    """Upright it is 2,400 × 1,500; in the file it lies on its side, so there the width is the input's height."""
    spec = SQUASH.model_copy(update={"input_size": height, "input_width": width})
    image = Image.open(BytesIO(encoded(picture(1_500, 2_400))))
    assert to_pixels(image, spec, turn=6).shape == (height, width, 3)
    assert image.size == decoded


def test_squash_is_what_keras_makes_of_a_file() -> None:
    keras = pytest.importorskip("keras")
    body = encoded(picture(500, 375), "PNG")
    for interpolation in ("bilinear", "bicubic"):
        spec = SQUASH.model_copy(update={"resize_filter": interpolation, "input_size": 150, "input_width": 200})
        wanted = keras.utils.load_img(BytesIO(body), target_size=(150, 200), interpolation=interpolation)
        np.testing.assert_array_equal(to_pixels(Image.open(BytesIO(body)), spec), np.asarray(wanted))


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same() -> None:
    image = picture(4_000, 3_000)
    fast = to_pixels(Image.open(BytesIO(encoded(image, quality=95))), SPEC)
    slow = to_pixels(image, SPEC)
    assert np.abs(fast.astype(int) - slow).mean() < 1.0


def test_pixels_in_flight_are_bounded_and_the_largest_still_passes(tmp_path: Path) -> None:
    limits = DecodeLimits(2, max_image_pixels=10**9, decode_bytes=10**6, turns=tmp_path / "turns")
    samples = [Sample(index, "k", body=READABLE["jpeg"]) for index in range(6)]
    decoded = list(decode_images(samples, SPEC, limits, Budget(1)))
    assert [sample.status for sample in decoded] == [Status.OK] * 6
