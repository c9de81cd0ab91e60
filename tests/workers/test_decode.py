"""Decoding: every kind of image a bucket may hold becomes pixels, or the right status."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from config.models import MODELS
from config.results import Status
from tests.images import READABLE, UNREADABLE, bomb, encoded, picture, turned
from workers.ahead import Budget
from workers.decode import DecodeLimits, decode_images, to_pixels
from workers.sample import Sample

SPEC = MODELS["efficientnet_lite0"]
SQUASH = SPEC.model_copy(update={"resize": "squash"})
LIMITS = DecodeLimits(threads=2, max_image_pixels=50_000_000, decode_pixels=60_000_000)


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


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same() -> None:
    image = picture(4_000, 3_000)
    fast = to_pixels(Image.open(BytesIO(encoded(image, quality=95))), SPEC)
    slow = to_pixels(image, SPEC)
    assert np.abs(fast.astype(int) - slow).mean() < 1.0


def test_pixels_in_flight_are_bounded_and_the_largest_still_passes() -> None:
    limits = DecodeLimits(threads=2, max_image_pixels=10**9, decode_pixels=1)
    samples = [Sample(index, "k", body=READABLE["jpeg"]) for index in range(6)]
    decoded = list(decode_images(samples, SPEC, limits, Budget(1)))
    assert [sample.status for sample in decoded] == [Status.OK] * 6
