"""Weights reach a machine once, verified, and nothing else is taken."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from config.clients import make_store
from config.errors import ContractError
from config.messages import Job, Weights
from config.own_model import OwnModel
from config.settings import Settings
from workers.weights import WeightsCache, check_keras_file, fetch_own_model, fetch_weights
from workers.workbench import Workbench

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


OWN = OwnModel(classes=("bird", "dog"), input_size=(8, 8), scaling="tf")


def own_weights(uri: str, json: bytes = OWN.to_json()) -> Weights:
    return Weights(uri=uri, sha256=SHA256, json_sha256=hashlib.sha256(json).hexdigest())


@pytest.mark.parametrize("given", ["s3", "file"])
def test_the_json_beside_a_file_is_fetched_once_for_the_machine(
    given: str, settings: Settings, bucket: str, cache: WeightsCache, stores: CountedStores, tmp_path: Path
) -> None:
    obstore.put(make_store(settings, bucket), "models/My birds.json", OWN.to_json())
    (tmp_path / "My birds.json").write_bytes(OWN.to_json())
    uri = f"s3://{bucket}/models/My birds.keras" if given == "s3" else (tmp_path / "My birds.keras").as_uri()
    assert [fetch_own_model(own_weights(uri), cache) for _ in range(2)] == [OWN, OWN]
    assert stores.opened == (1 if given == "s3" else 0)


def test_weights_without_a_json_have_none(cache: WeightsCache) -> None:
    assert fetch_own_model(Weights(uri="s3://bucket/own.keras", sha256=SHA256), cache) is None


def test_another_json_than_the_job_names_is_refused(settings: Settings, bucket: str, cache: WeightsCache) -> None:
    """It was changed since the run was submitted: its chunks would have rows of two kinds."""
    store, uri = make_store(settings, bucket), f"s3://{bucket}/own.keras"
    with pytest.raises(ContractError, match=r"own\.json: no such object"):
        fetch_own_model(own_weights(uri), cache)
    obstore.put(store, "own.json", OWN.to_json().replace(b"dog", b"cat"))
    with pytest.raises(ContractError, match=r"own\.json: sha256 [0-9a-f]{64}, the job names [0-9a-f]{64}$"):
        fetch_own_model(own_weights(uri), cache)
    obstore.put(store, "own.json", b"{}")
    with pytest.raises(ContractError, match=r"own\.json: classes: Field required"):
        fetch_own_model(own_weights(uri, b"{}"), cache)


def test_a_file_is_looked_into_before_keras_loads_it(tmp_path: Path) -> None:
    file = tmp_path / "0123.keras"
    file.write_bytes(b"no zip")
    with pytest.raises(ContractError, match=r"^s3://bucket/own\.keras is refused: it is no \.keras file"):
        check_keras_file(Weights(uri="s3://bucket/own.keras"), file)
    check_keras_file(Weights(uri="s3://bucket/own.weights.h5"), tmp_path / "0123.weights.h5")
    check_keras_file(Weights(uri="packaged"), None)


def test_why_a_network_cannot_be_had_is_found_out_once(settings: Settings, bucket: str, tmp_path: Path) -> None:
    """A run's other chunks must not cost as long as its first; what may pass is tried again."""
    file = tmp_path / "own.keras"
    file.write_bytes(b"no zip")
    spec = OWN.to_spec("own")
    job = Job(run_id="run-1", model="own", spec=spec, weights=Weights(uri=file.as_uri()), output=f"s3://{bucket}/out")
    bench = Workbench(settings)
    with pytest.raises(ContractError, match="is refused") as first:
        bench.network(job)
    file.unlink()
    with pytest.raises(ContractError, match="is refused") as second:
        bench.network(job.model_copy(update={"run_id": "run-2"}))
    assert str(second.value) == str(first.value)
    with pytest.raises(ContractError, match="no such file"):
        bench.network(job.model_copy(update={"weights": Weights(uri=f"{file.as_uri()[:-6]}2.keras")}))
    with pytest.raises(ContractError, match=r"own is an own model, and its job names no \.keras file"):
        bench.network(job.model_copy(update={"weights": None}))
    with pytest.raises(ContractError, match="own without its top has no classes, which classify needs"):
        bench.network(job.model_copy(update={"spec": spec.model_copy(update={"include_top": False})}))


def test_an_object_that_would_fill_the_disk_is_refused(
    uri: str, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.weights.MOST_BYTES", len(BODY) - 1)
    with pytest.raises(ContractError, match=f"{len(BODY)} bytes"):
        fetch_weights(Weights(uri=uri), cache)
    assert not list(cache.directory.rglob("*.part"))
