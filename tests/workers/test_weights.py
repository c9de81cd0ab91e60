"""Weights reach a machine once, verified, and nothing else is taken."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from config.clients import make_store
from config.errors import ContractError
from config.messages import Weights
from config.settings import Settings
from workers.weights import WeightsCache, fetch_weights

BODY = b"weights" * 1_000
SHA256 = hashlib.sha256(BODY).hexdigest()


class CountedStores:
    """Opens buckets and counts how often."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.opened = settings, 0

    def __call__(self, bucket: str) -> S3Store:
        self.opened += 1
        return make_store(self.settings, bucket)


@pytest.fixture
def stores(settings: Settings) -> CountedStores:
    return CountedStores(settings)


@pytest.fixture
def cache(stores: CountedStores, tmp_path: Path) -> WeightsCache:
    return WeightsCache(tmp_path / "cache", stores, allow_files=True)


@pytest.fixture
def uri(settings: Settings, bucket: str) -> str:
    obstore.put(make_store(settings, bucket), "models/own.weights.h5", BODY)
    return f"s3://{bucket}/models/own.weights.h5"


@pytest.mark.parametrize("uri", ["packaged", "imagenet", "random"])
def test_weights_that_are_no_file_need_no_fetching(uri: str, cache: WeightsCache) -> None:
    assert fetch_weights(Weights(uri=uri), cache) is None


def test_a_verified_file_is_fetched_once_for_the_machine(uri: str, cache: WeightsCache, stores: CountedStores) -> None:
    weights = Weights(uri=uri, sha256=SHA256)
    first, second = fetch_weights(weights, cache), fetch_weights(weights, cache)
    assert first == second
    assert first is not None
    assert first.read_bytes() == BODY
    assert first.name.endswith(".weights.h5")
    assert stores.opened == 1


@pytest.mark.parametrize("given", ["s3", "file"])
def test_other_weights_than_the_job_names_are_refused(
    given: str, uri: str, cache: WeightsCache, tmp_path: Path
) -> None:
    local = tmp_path / "own.weights.h5"
    local.write_bytes(BODY)
    weights = Weights(uri=uri if given == "s3" else local.as_uri(), sha256="0" * 64)
    with pytest.raises(ContractError, match="sha256"):
        fetch_weights(weights, cache)
    assert not list(cache.directory.rglob("*.part"))
    assert not list(cache.directory.rglob("*.h5"))


def test_a_file_with_a_space_in_its_name_is_found(cache: WeightsCache, tmp_path: Path) -> None:
    local = tmp_path / "my own.weights.h5"
    local.write_bytes(BODY)
    assert fetch_weights(Weights(uri=local.as_uri(), sha256=SHA256), cache) == local


REFUSED: dict[str, Callable[[str], str]] = {
    "no such object": lambda bucket: f"s3://{bucket}/none.weights.h5",
    "no such file": lambda bucket: "file:///none.weights.h5",
    "end with none": lambda bucket: f"s3://{bucket}/model.pickle",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_weights_is_refused(reason: str, bucket: str, cache: WeightsCache) -> None:
    with pytest.raises(ContractError, match=reason):
        fetch_weights(Weights(uri=REFUSED[reason](bucket)), cache)


def test_files_are_refused_where_the_worker_takes_none(stores: CountedStores, tmp_path: Path) -> None:
    closed = WeightsCache(tmp_path, stores, allow_files=False)
    with pytest.raises(ContractError, match="takes no file"):
        fetch_weights(Weights(uri="file:///a.weights.h5"), closed)
