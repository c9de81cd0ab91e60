"""What the producer's tests share: a bucket with keys, a proxy before S3, and a home of their own."""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import obstore
import pytest

from config.clients import make_s3, make_store
from config.settings import Settings
from tests.producer.proxy import Proxy, running_proxy

#: Keys that obstore spells as they are.
PLAIN = re.compile(r"(\w[\w.-]*/)*\w[\w.-]*", re.ASCII)

PutKeys = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a test are not remembered among the person's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def put_keys(settings: Settings, bucket: str) -> Iterator[PutKeys]:
    """Write small objects under the given keys; takes every key that S3 takes."""
    store = make_store(settings, bucket)
    with closing(make_s3(settings)) as s3, ThreadPoolExecutor(8) as pool:

        def put_one(key: str, body: bytes) -> None:
            if PLAIN.fullmatch(key):
                obstore.put(store, key, body)  # a tenth of the work
            else:
                s3.put_object(Bucket=bucket, Key=key, Body=body)

        def put(keys: Iterable[str], body: bytes = b"image") -> list[str]:
            keys = list(keys)
            list(pool.map(lambda key: put_one(key, body), keys))
            return keys

        yield put


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    """A proxy before the S3 server."""
    assert settings.s3_endpoint_url
    with running_proxy(settings.s3_endpoint_url) as found:
        yield found


@pytest.fixture
def proxied(settings: Settings, proxy: Proxy) -> Settings:
    """The test's settings, but S3 is reached through the proxy."""
    return settings.model_copy(update={"s3_endpoint_url": proxy.url})
