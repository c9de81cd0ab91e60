"""One run from source to queue, and again from what S3 holds of it: nothing lost, nothing half-enqueued."""

import io
import re
import time

import obstore
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

import producer
from config.clients import make_redis
from config.errors import SourceError, UnavailableError, UnknownModel, UsageError
from config.messages import Chunk, Engine, Job, Mode, Precision, Weights
from config.models import MODELS
from config.results import MANIFEST_SCHEMA, FrozenManifest, RunRecord
from producer.frozen import Totals, freeze_part, read_keys, read_part, take_part, totals_of
from producer.pages import ListedKey
from producer.run import new_run_id
from tests.producer.proxy import Answer
from tests.producer.stand_in import fail_chunk, finish_chunk, queued_chunks, take_chunks


def names(count, folder="in"):
    return [f"{folder}/{number:05d}.jpg" for number in range(count)]


def stored(store, prefix=""):
    return sorted(found["path"] for page in obstore.list(store, prefix) for found in page)


def read(store, key) -> bytes:
    return bytes(obstore.get(store, key).bytes())


def keys_in(chunks: list[Chunk]) -> list[str]:
    return [key for chunk in chunks for key in chunk.keys]


def submitted(source, settings, **options):
    """A run that is wholly enqueued."""
    run = producer.submit("classify", source, settings=settings, on_event=pytest.fail, **options)
    assert run.wait_enqueued(60)
    return run


# --- Submit --------------------------------------------------------------------------------------------------------


def test_a_run_stands_in_s3_and_in_the_queue(settings, bucket, store, put_keys):
    keys = put_keys(names(100))
    run = submitted(f"s3://{bucket}/in/", settings, top_k=3, engine="openvino", precision="float32")

    record = RunRecord.from_json(read(store, run.address.job_key))
    assert record == run.record
    assert str(run.address) == f"s3://{bucket}/pixelherd-results/{run.run_id}"
    assert (record.source, record.bucket, record.chunk_size) == (f"s3://{bucket}/in/", bucket, 16)
    job = record.job
    assert (job.mode, job.model, job.top_k) == (Mode.CLASSIFY, "efficientnet_lite0", 3)
    assert (job.engine, job.precision) == (Engine.OPENVINO, Precision.FLOAT32)
    assert job.weights == Weights(uri="packaged")
    assert job.preprocess_digest == MODELS["efficientnet_lite0"].preprocess_digest
    assert job.output == f"s3://{bucket}/pixelherd-results/"
    assert {"python", "celery", "obstore"} <= set(record.versions)

    frozen = FrozenManifest.from_json(read(store, run.address.frozen_key))
    assert (frozen.parts, frozen.keys, frozen.size_bytes) == (1, 100, 100 * len(b"image"))
    manifest = pq.read_table(io.BytesIO(read(store, run.address.manifest_key(0))))
    assert manifest.schema.equals(MANIFEST_SCHEMA)
    assert manifest["key"].to_pylist() == keys
    assert set(manifest["size"].to_pylist()) == {5}

    chunks = queued_chunks(settings)
    assert keys_in(chunks) == keys
    assert [len(chunk.keys) for chunk in chunks] == [16] * 6 + [4]
    assert {chunk.job for chunk in chunks} == {job}


def test_a_large_run_has_a_small_first_part_and_full_ones_behind(settings, bucket, store, put_keys):
    small = settings.model_copy(update={"chunk_size": 1, "queue_window": 2_000})
    keys = put_keys(names(64 + 1_024 + 12))
    run = submitted(f"s3://{bucket}/in/", small)
    frozen = FrozenManifest.from_json(read(store, run.address.frozen_key))
    assert (frozen.parts, frozen.keys) == (3, 1_100)
    assert [len(read_keys(store, run.address, part)) for part in range(3)] == [64, 1_024, 12]
    chunks = queued_chunks(settings)
    assert keys_in(chunks) == keys
    assert [(chunk.part, chunk.start) for chunk in chunks[62:66]] == [(0, 62), (0, 63), (1, 0), (1, 1)]
    assert run.record.chunk_size == 1


def test_listing_goes_on_while_the_queue_is_full(settings, bucket, put_keys):
    narrow = settings.model_copy(update={"chunk_size": 1, "queue_window": 10})
    put_keys(names(200))
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=narrow)
    try:
        deadline = time.monotonic() + 30
        while run.status().images is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert run.status().images == 200
        assert len(queued_chunks(narrow)) <= 10
    finally:
        run.stop_feeding()


def test_keys_go_to_the_output_that_was_asked_for(settings, bucket, store, put_keys):
    put_keys(["in/a.jpg"])
    run = submitted([f"s3://{bucket}/in/a.jpg"], settings, output=f"s3://{bucket}/ünï out/x/")
    assert str(run.address) == f"s3://{bucket}/ünï out/x/{run.run_id}"
    assert read(store, run.address.job_key)
    assert run.record.source == "keys"
    by_default = settings.model_copy(update={"output": f"s3://{bucket}/elsewhere"})
    assert submitted([f"s3://{bucket}/in/a.jpg"], by_default).record.job.output == f"s3://{bucket}/elsewhere"


def test_a_key_given_twice_leaves_one_row(settings, bucket, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"s3://{bucket}/{key}\n" for key in ["b", "a", "b", "c", "a"]))
    submitted(tmp_path / "list.txt", settings)
    assert keys_in(queued_chunks(settings)) == ["b", "a", "c"]


def test_the_first_chunk_does_not_wait_for_the_listing(proxied, proxy, bucket, put_keys):
    small = proxied.model_copy(update={"chunk_size": 16})
    put_keys(names(3_000))

    def slow_last_page(request: str) -> None:
        if proxy.count("list-type=2") > 2:
            time.sleep(0.5)

    proxy.answer = slow_last_page
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=small)
    # 64 chunks of 16 keys, and one key more to see that there is more: two pages, and one ahead.
    assert proxy.count("list-type=2", "prefix=in%2F") <= 3
    run.wait_enqueued(60)
    assert len(keys_in(queued_chunks(small))) == 3_000


def test_a_run_id_says_when_and_what():
    for run_id in (new_run_id(Mode.CLASSIFY, "inception_v3") for _ in range(2)):
        assert re.fullmatch(r"\d{8}-\d{6}-classify-inception-v3-[0-9a-f]{4}", run_id)
        assert Job(run_id=run_id, model="inception_v3", output="s3://bucket/").run_id == run_id


# --- Refusals: nothing is written, nothing enqueued ----------------------------------------------------------------


def refused(settings, store, error, words, *arguments, **options):
    before = stored(store)
    with pytest.raises(error, match=words) as found:
        producer.submit(*arguments, settings=settings, **options)
    assert "\n" not in str(found.value)
    assert stored(store) == before
    with make_redis(settings) as client:
        assert client.dbsize() == 0


def test_what_cannot_be_is_refused_before_anything_is_written(settings, bucket, store, put_keys):
    put_keys(["in/a.jpg"])
    source = f"s3://{bucket}/in/"
    for error, words, arguments, options in (
        (UsageError, "did you mean classify", ("clasify", source), {}),
        (UsageError, "have no label by 'folder'", ("fine_tune", source), {}),
        (UnknownModel, "did you mean resnet50", ("classify", source), {"model": "resnet5"}),
        (UsageError, "did you mean openvino", ("classify", source), {"engine": "openvin"}),
        (UsageError, "unknown precision 'half'", ("classify", source), {"precision": "half"}),
        (UsageError, "1 to 1000 classes", ("classify", source), {"top_k": 0}),
        (UsageError, "1 to 1000 classes", ("classify", source), {"top_k": 1_001}),
        (SourceError, "no keys in", ("classify", f"s3://{bucket}/nothing/"), {}),
        (SourceError, "the bucket does not exist", ("classify", "s3://no-such-bucket-here/in/"), {}),
        (UsageError, "the bucket does not exist", ("classify", source), {"output": "s3://no-such-bucket-here/"}),
        (UsageError, "plain names", ("classify", source), {"output": f"s3://{bucket}/a//b/"}),
        (UsageError, "no S3 URI", ("classify", source), {"output": "results/"}),
        (UsageError, "names no weights", ("classify", source), {"weights": "mine.h5"}),
        (UsageError, r"\.weights\.h5", ("classify", source), {"weights": f"s3://{bucket}/mine.h5"}),
        (UsageError, "no such object", ("classify", source), {"weights": f"s3://{bucket}/mine.keras"}),
        (UsageError, "No such file", ("classify", source), {"weights": "file:///no/such/mine.keras"}),
        (UsageError, "no package brings", ("classify", source), {"weights": "packaged", "model": "vgg19"}),
    ):
        refused(settings, store, error, words, *arguments, **options)


def test_nothing_is_written_where_the_broker_is_down(settings, bucket, store, put_keys):
    put_keys(["in/a.jpg"])
    away = settings.model_copy(update={"broker_url": SecretStr("redis://:planted-secret@127.0.0.1:9/0")})
    with pytest.raises(UnavailableError, match="is Redis running there") as found:
        producer.submit("classify", f"s3://{bucket}/in/", settings=away)
    assert "planted-secret" not in str(found.value)
    assert stored(store) == ["in/a.jpg"]


def test_nothing_is_enqueued_where_results_may_not_be_written(proxied, proxy, bucket, store, put_keys):
    put_keys(["in/a.jpg"])
    proxy.answer = lambda request: Answer(403, "AccessDenied") if request.startswith("PUT") else None
    refused(proxied, store, UsageError, "s3:PutObject", "classify", f"s3://{bucket}/in/")


def test_a_listing_that_breaks_off_is_raised_by_whoever_waits(proxied, proxy, bucket, put_keys):
    small = proxied.model_copy(update={"chunk_size": 16})
    put_keys(names(3_000))
    pages = iter([None, None])
    proxy.answer = lambda request: next(pages, Answer(403, "AccessDenied")) if "prefix=in%2F" in request else None
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=small)
    with pytest.raises(SourceError, match="s3:ListBucket"):
        run.wait(timeout_s=60)
    proxy.answer = lambda request: None
    assert len(keys_in(queued_chunks(small))) <= 1_024

    assert run.resume().wait_enqueued(60)
    assert run.status().images == 3_000
    # What the first attempt had sent is sent again: it has no summary.
    assert len(set(keys_in(queued_chunks(small)))) == 3_000


# --- Resume and cancel ---------------------------------------------------------------------------------------------


def test_resume_enqueues_exactly_what_has_no_summary(proxied, proxy, bucket, store, put_keys):
    put_keys(names(200))
    run = submitted(f"s3://{bucket}/in/", proxied)
    chunks = take_chunks(proxied)
    assert len(chunks) == 13
    for chunk in chunks[:5]:
        finish_chunk(proxied, chunk)
    fail_chunk(proxied, chunks[7])
    with make_redis(proxied) as client:
        client.flushall()
    proxy.seen.clear()

    again = producer.open_run(str(run.address), settings=proxied).resume()
    assert again.wait_enqueued(60)
    assert queued_chunks(proxied) == chunks[5:]
    assert stored(store, run.address.failures) == []
    assert proxy.count("/parts/") == 0, "result rows were read"
    assert run.status().remaining == 200 - 5 * 16

    for chunk in take_chunks(proxied):
        finish_chunk(proxied, chunk)
    assert again.wait(timeout_s=60).done == 200
    assert again.resume().wait_enqueued(60)
    assert queued_chunks(proxied) == []


def test_resume_enqueues_the_missing_halves_of_a_chunk_that_was_split(settings, bucket, put_keys):
    put_keys(names(40))
    run = submitted(f"s3://{bucket}/in/", settings)
    first, second, third = take_chunks(settings)
    left, right = second.halves()
    for chunk in (third, left.halves()[1]):
        finish_chunk(settings, chunk)
    fail_chunk(settings, right)
    assert run.resume().wait_enqueued(60)
    assert queued_chunks(settings) == [first, left.halves()[0], right]
    assert run.status().failed == 0


@pytest.mark.parametrize("kind", ["glob", "manifest"])
def test_a_listing_that_was_cut_off_goes_on(kind, settings, bucket, store, put_keys, tmp_path):
    """As after a producer that was killed: job.json and some parts stand, and no mark."""
    small = settings.model_copy(update={"chunk_size": 1, "queue_window": 3_000})
    keys = put_keys(names(64 + 1_024 + 12))
    (tmp_path / "list.txt").write_text("".join(f"s3://{bucket}/{key}\n" for key in keys))
    source = tmp_path / "list.txt" if kind == "manifest" else f"s3://{bucket}/in/*.jpg"
    run = submitted(source, small)
    for parts, listed_before in ((2, 64 + 1_024), (1, 64), (0, 0)):
        obstore.delete(store, run.address.frozen_key)
        for part in range(parts, 3):
            obstore.delete(store, run.address.manifest_key(part))
        with make_redis(small) as client:
            client.flushall()
        again = producer.open_run(run.run_id, settings=small)
        assert again.status().phase is producer.Phase.LISTING
        assert again.status().listed == listed_before

        assert again.resume().wait_enqueued(60)
        frozen = FrozenManifest.from_json(read(store, run.address.frozen_key))
        assert (frozen.parts, frozen.keys) == (3, 1_100)
        assert frozen.size_bytes == (0 if kind == "manifest" else 5_500)
        assert keys_in(queued_chunks(small)) == keys


def test_a_part_that_is_not_full_ended_the_listing(settings, bucket, store, put_keys):
    """The producer was killed between the last part and the mark: keys that came later are no part of the run."""
    keys = put_keys(names(100))
    run = submitted(f"s3://{bucket}/in/", settings)
    obstore.delete(store, run.address.frozen_key)
    put_keys(["in/later.jpg"])
    take_chunks(settings)
    assert run.resume().wait_enqueued(60)
    assert run.status().images == 100
    assert keys_in(queued_chunks(settings)) == keys


def test_a_manifest_that_changed_is_not_gone_on_with(settings, bucket, store, tmp_path):
    small = settings.model_copy(update={"chunk_size": 1})
    path = tmp_path / "list.txt"
    path.write_text("".join(f"s3://{bucket}/{key}\n" for key in names(100)))
    run = submitted(path, small)
    obstore.delete(store, run.address.frozen_key)
    obstore.delete(store, run.address.manifest_key(1))
    path.write_text("".join(f"s3://{bucket}/{key}\n" for key in ["in/new.jpg", *names(100)]))
    with pytest.raises(SourceError, match="has changed since"):
        run.resume().wait_enqueued(60)
    path.unlink()
    with pytest.raises(SourceError, match="no file on this machine"):
        run.resume()


def test_a_cancelled_run_is_left_alone_until_told_otherwise(settings, bucket, store, put_keys):
    put_keys(names(40))
    run = submitted(f"s3://{bucket}/in/", settings)
    finish_chunk(settings, take_chunks(settings)[0])
    run.cancel()
    assert run.address.cancelled_key in stored(store)
    status = run.wait(timeout_s=10)
    assert (status.phase, status.done, status.remaining) == (producer.Phase.CANCELLED, 16, 24)
    with pytest.raises(UsageError, match="was cancelled"):
        run.resume()
    assert queued_chunks(settings) == []
    assert run.resume(even_cancelled=True).wait_enqueued(60)
    assert run.address.cancelled_key not in stored(store)
    assert keys_in(queued_chunks(settings)) == names(40)[16:]


def test_cancelling_ends_the_feed(settings, bucket, put_keys):
    narrow = settings.model_copy(update={"chunk_size": 1, "queue_window": 5})
    put_keys(names(100))
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=narrow)
    run.cancel()
    assert run.wait(timeout_s=10).phase is producer.Phase.CANCELLED
    assert len(queued_chunks(narrow)) <= 5


# --- The frozen list -----------------------------------------------------------------------------------------------


def listed(keys):
    return iter([ListedKey(key, 7) for key in keys])


def test_a_part_is_full_but_the_last():
    keys = listed(f"k{number}" for number in range(20_000))
    sizes = []
    while (table := take_part(keys, 9_000)).num_rows:
        sizes.append(table.num_rows)
    assert sizes == [9_000, 9_000, 2_000]


def test_a_part_holds_different_keys_and_is_full_all_the_same():
    keys = listed(["a", "b", "a", "a", "c", "b", "d", "e"])
    assert take_part(keys, 4)["key"].to_pylist() == ["a", "b", "c", "d"]
    assert take_part(keys, 4)["key"].to_pylist() == ["e"]


def test_a_part_is_frozen_once_and_tells_the_totals(settings, bucket, store, put_keys):
    put_keys(["in/a.jpg"])
    run = submitted(f"s3://{bucket}/in/", settings).address
    part = take_part(listed(["x", "y"]), 10)
    totals = freeze_part(store, run, 1, part, Totals(1, 5))
    assert totals == Totals(3, 19)
    assert totals_of(read_part(store, run, 1)) == totals
    assert freeze_part(store, run, 1, part, Totals(1, 5)) == totals, "the same once more is no conflict"
    with pytest.raises(UsageError, match="another producer"):
        freeze_part(store, run, 1, take_part(listed(["x", "z"]), 10), Totals(1, 5))
