"""Every key leaves one row: 1,000 keys with everything planted that a bucket holds, through the whole walk."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

import producer
from config.clients import make_s3
from config.settings import Settings
from producer.processes import Child
from tests.images import AWKWARD_KEYS, READABLE, UNREADABLE, noise

KEYS = 1_000


@pytest.fixture
def planted(settings: Settings, store: S3Store, bucket: str) -> dict[str, str]:
    """Key -> the status that its row must have."""
    s3 = make_s3(settings)
    bodies = {f"in/planted/{kind}": body for kind, body in READABLE.items()}
    expected = dict.fromkeys(bodies, "ok")
    for kind, (body, status) in UNREADABLE.items():
        bodies[f"in/planted/{kind}"], expected[f"in/planted/{kind}"] = body, status
    for key in AWKWARD_KEYS:
        bodies[f"in/{key}"], expected[f"in/{key}"] = noise(1), "ok"
    bodies["in/forbidden.jpg"], expected["in/forbidden.jpg"] = noise(2), "forbidden"
    bodies["in/gone.jpg"], expected["in/gone.jpg"] = noise(3), "missing"
    small = [noise(seed) for seed in range(20)]
    for number in range(KEYS - len(bodies)):
        bodies[f"in/{number:04d}.jpg"], expected[f"in/{number:04d}.jpg"] = small[number % 20], "ok"
    for key, body in bodies.items():
        if key.isprintable():
            obstore.put(store, key, body)
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=body)
    resource = f"arn:aws:s3:::{bucket}/in/forbidden.jpg"
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": resource}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    return expected


def test_a_thousand_keys_leave_a_thousand_rows(
    planted: dict[str, str],
    settings: Settings,
    store: S3Store,
    bucket: str,
    worker: Callable[..., Child],
) -> None:
    run = producer.submit("classify", f"s3://{bucket}/in/", output=f"s3://{bucket}/out/", settings=settings)
    assert run.wait_enqueued(60)
    obstore.delete(store, "in/gone.jpg")  # after it was listed, before any worker is there
    child = worker()
    status = run.wait(timeout_s=240)
    assert (status.phase, status.images, status.done, status.remaining) == (producer.Phase.DONE, KEYS, KEYS, 0)

    rows: list[dict[str, Any]] = run.results().to_pylist()
    assert Counter(row["key"] for row in rows) == dict.fromkeys(planted, 1)
    assert {row["key"]: row["status"] for row in rows} == planted
    assert Counter(planted.values()) == status.counts
    for row in rows:
        assert (row["class_name"] is None) == (row["status"] != "ok")
        assert (row["error"] is None) == (row["status"] == "ok")
    turned = next(row for row in rows if row["key"] == "in/planted/exif-rotated")
    upright = next(row for row in rows if row["key"] == "in/planted/png")
    assert (turned["width"], turned["height"], turned["class_name"]) == (400, 300, upright["class_name"])
    child.check()
