"""Fetching from a real S3 server: every key that can be named, every refusal with its own fate."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from obstore.store import S3Store

from config.clients import make_s3, make_store
from config.results import Status
from config.settings import Settings
from tests.images import AWKWARD_KEYS, noise
from workers.ahead import Budget
from workers.errors import BucketUnavailable, TransientError
from workers.fetch import FetchLimits, fetch_images, make_opener
from workers.sample import Sample

LIMITS = FetchLimits(threads=4, max_image_bytes=100_000)


@pytest.fixture
def s3(settings: Settings) -> Any:
    return make_s3(settings)


@pytest.fixture
def fetch(settings: Settings, s3: Any, bucket: str) -> Callable[..., list[Sample]]:
    opener = make_opener(make_store(settings, bucket), s3, bucket)
    return lambda *keys: list(fetch_images(opener, keys, LIMITS, Budget(10**9)))


def test_bodies_come_in_the_order_of_the_keys(fetch: Any, s3: Any, bucket: str) -> None:
    bodies = {f"photos/{number}.jpg": noise(number) for number in range(20)}
    for key, body in bodies.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    samples = fetch(*bodies)
    assert [(sample.index, sample.key, sample.body) for sample in samples] == [
        (index, key, body) for index, (key, body) in enumerate(bodies.items())
    ]
    assert all(sample.size_bytes == len(sample.body) for sample in samples)
    assert all(len(sample.etag or "") == 32 for sample in samples)


@pytest.mark.parametrize("key", AWKWARD_KEYS)
def test_every_key_that_s3_takes_can_be_fetched(fetch: Any, s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    (sample,) = fetch(key)
    assert (sample.status, sample.error, sample.body) == (Status.OK, None, key.encode())


def test_what_cannot_be_had_is_a_row_and_its_neighbours_come(fetch: Any, s3: Any, bucket: str) -> None:
    for key, body in {"a": b"x", "closed": b"x", "empty": b"", "large": b"x" * 100_001, "z": b"x"}.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    denied = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/closed",
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    samples = fetch("a", "closed", "gone", "empty", "large", "z", "gone\ntoo")
    assert [sample.status.value for sample in samples] == [
        "ok", "forbidden", "missing", "empty", "too_large", "ok", "missing",
    ]  # fmt: skip
    assert all(sample.error for sample in samples if sample.status is not Status.OK)


def test_a_vanished_bucket_blames_no_image(settings: Settings, s3: Any) -> None:
    opener = make_opener(make_store(settings, "no-such-bucket"), s3, "no-such-bucket")
    with pytest.raises(BucketUnavailable, match="NoSuchBucket"):
        list(fetch_images(opener, ["a"], LIMITS, Budget(10**9)))


def test_a_wrong_secret_blames_no_image(settings: Settings, bucket: str) -> None:
    wrong = settings.model_copy(update={"s3_secret_access_key": type(settings.broker_url)("wrong")})
    opener = make_opener(make_store(wrong, bucket), make_s3(wrong), bucket)
    with pytest.raises(TransientError):
        list(fetch_images(opener, ["a"], LIMITS, Budget(10**9)))


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]  # bound, not listening: every connection is refused


def test_a_server_that_is_down_is_no_image_s_fault(settings: Settings, bucket: str, closed_port: int) -> None:
    down = settings.model_copy(update={"s3_endpoint_url": f"http://127.0.0.1:{closed_port}", "s3_retry_timeout_s": 0.5})
    store: S3Store = make_store(down, bucket)
    opener = make_opener(store, make_s3(down), bucket)
    with pytest.raises(TransientError):
        list(fetch_images(opener, ["a"], LIMITS, Budget(10**9)))
