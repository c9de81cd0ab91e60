"""Photographs: from a person's pictures to as many keys in a bucket of the local S3 server."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore

from config.clients import make_s3, make_store
from config.settings import Settings

BUCKET = "bench"
SOURCE = f"s3://{BUCKET}/photographs/"

#: The first images, which are classified with a cold start and by the peers; the others lie beside them.
COMPARED = 1_000
COMPARED_SOURCE = f"{SOURCE}compared/"

#: The first hundred of those: enough for every process of a worker to load its network.
WARM_UP = 100
WARM_UP_SOURCE = f"{COMPARED_SOURCE}00000**"

RESULTS = f"s3://{BUCKET}/results/"

#: PUTs in flight.
UPLOAD_THREADS = 8


def upload_copies(settings: Settings, pictures: Sequence[Path], images: int) -> tuple[str, ...]:
    """Put the pictures again and again until there are `images` keys, and return the keys."""
    make_s3(settings).create_bucket(Bucket=BUCKET)
    store = make_store(settings, BUCKET)
    bodies = [(path.name, path.read_bytes()) for path in pictures]

    def put(number: int) -> str:
        name, body = bodies[number % len(bodies)]
        source = COMPARED_SOURCE if number < COMPARED else f"{SOURCE}others/"
        key = f"{source.removeprefix(f's3://{BUCKET}/')}{number:07d}_{name}"
        obstore.put(store, key, body)
        return key

    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        return tuple(pool.map(put, range(images)))
