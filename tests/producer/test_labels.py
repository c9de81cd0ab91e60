"""Labels by folder, pattern and column: from the key to the manifest, the chunk, its halves and the resumed run."""

import io
import json

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import producer
from config.clients import make_redis
from config.errors import ContractError, SourceError, UsageError
from config.messages import MAX_LABEL, Chunk, Job, Mode
from config.results import ChunkPlace
from producer.labels import parse_labels
from producer.lister import open_listing
from producer.pages import ListedKey
from producer.reconcile import lost_chunks
from producer.request import make_request
from producer.run import OpenRun, submit_run
from producer.source import parse_source
from tests.producer.stand_in import finish_chunk, queued_chunks, take_chunks

JOB = Job(run_id="run-1", mode=Mode.CLASSIFY, model="efficientnet_lite0", output="s3://bucket/out")


def labels_of(rule: str, given: str | list[str], *keys: str) -> list[str | None]:
    found = parse_labels(rule, parse_source(given))
    return [listed.label for listed in found.apply(iter([ListedKey(key) for key in keys]))]


# --- The rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "key", "label"),
    [
        ("s3://b/train/", "train/n0144/1.jpg", "n0144"),
        ("s3://b/train", "train/n0144/1.jpg", "n0144"),
        ("s3://b/train/", "train/n0144/images/1.jpg", "n0144"),
        ("s3://b/train/", "train/stray.jpg", None),
        ("s3://b/train/", "train//odd.jpg", None),
        ("s3://b", "cats/1.jpg", "cats"),
        ("s3://b/", "1.jpg", None),
        ("s3://b/train/*/*.jpg", "train/cats/1.jpg", "cats"),
        ("s3://b/train/n0*/*.jpg", "train/n01/1.jpg", "n01"),
        ("s3://b/train/one.jpg", "train/one.jpg", None),
        (["s3://b/x/cats/1.jpg"], "x/cats/1.jpg", "cats"),
        (["s3://b/1.jpg"], "1.jpg", None),
    ],
)
def test_the_folder_below_the_source_is_the_label(given, key, label):
    assert labels_of("folder", given, key) == [label]


@pytest.mark.parametrize(
    ("rule", "key", "label"),
    [
        ("{label}_*.JPEG", "in/n01443537_goldfish.JPEG", "n01443537"),
        ("{label}_*.JPEG", "n01443537_great_white.JPEG", "n01443537"),
        ("pattern:{label}_*.JPEG", "in/n01443537_goldfish.JPEG", "n01443537"),
        ("{label}_*.JPEG", "in/goldfish.JPEG", None),
        ("{label}_*.JPEG", "in/a_1.jpg", None),
        ("{label}/**/*.jpg", "in/cats/deep/er/1.jpg", "in"),
        ("train/{label}/*", "x/train/cats/1", "cats"),
        ("a.b/{label}.jpg", "aXb/cats.jpg", None),
        (r"pattern:^in/\d+-(?P<label>[^.]+)", "in/12-golden retriever.jpg", "golden retriever"),
        (r"pattern:(?P<label>x*)", "in/1.jpg", None),
    ],
)
def test_a_pattern_says_where_the_label_is(rule, key, label):
    assert labels_of(rule, "s3://b/in/", key) == [label]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("foldr", "did you mean folder"),
        ("nonsense", r"write folder, pattern:REGEX"),
        ("pattern:(", "is no pattern for labels"),
        ("pattern:.*", r"does not say where the label is; write .*\(\?P<label>"),
        ("{label}/{label}", "twice"),
        ("{label}[z-a]", "is no pattern for labels"),
        ("column:label", "has no columns to take labels from"),
        ("column", "has no columns"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_in_one_line(rule, words):
    with pytest.raises(UsageError, match=words) as found:
        parse_labels(rule, parse_source("s3://b/in/"))
    assert "\n" not in str(found.value)


def test_a_label_is_a_name_and_no_caption():
    with pytest.raises(SourceError, match="has 300 characters; 255"):
        labels_of("folder", "s3://b/", f"{'x' * 300}/1.jpg")


# --- The manifest's column -----------------------------------------------------------------------------------------

ROWS = [("a.jpg", "tench"), ("b.jpg", None), ("c.jpg", " 7 "), ("d.jpg", "")]


def write_csv(path, rows):
    path.write_text("key,label\n" + "".join(f"{key},{label or ''}\n" for key, label in rows))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"key": key, "label": label}) + "\n" for key, label in rows))


def write_parquet(path, rows):
    pq.write_table(pa.table({"label": [label for _, label in rows], "key": [key for key, _ in rows]}), path)


@pytest.mark.parametrize(("suffix", "write"), [("csv", write_csv), ("jsonl", write_jsonl), ("parquet", write_parquet)])
def test_a_column_holds_the_labels(suffix, write, tmp_path, settings):
    path = tmp_path / f"list.{suffix}"
    write(path, ROWS)
    source = parse_source(path, "b")
    found = open_listing(source, settings, None, labels=parse_labels("column", source)).keys
    assert [(listed.key, listed.label) for listed in found] == [
        ("a.jpg", "tench"),
        ("b.jpg", None),
        ("c.jpg", "7"),
        ("d.jpg", None),
    ]


def test_numbers_and_gaps_of_a_data_frame_are_labels(tmp_path, settings):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"key": ["a", "b", "c"], "kind": [3.0, float("nan"), None]}), path)
    source = parse_source(path, "b")
    found = open_listing(source, settings, None, labels=parse_labels("column:kind", source)).keys
    assert [listed.label for listed in found] == ["3", None, None]


def test_a_column_that_is_not_there_is_a_sentence(tmp_path, settings):
    path = tmp_path / "list.csv"
    path.write_text("key,class\na.jpg,tench\n")
    source = parse_source(path, "b")
    with pytest.raises(SourceError, match="has no column `label`; its columns are key, class"):
        open_listing(source, settings, None, labels=parse_labels("column", source))
    (tmp_path / "list.txt").write_text("a.jpg\n")
    with pytest.raises(UsageError, match="plain text without columns"):
        parse_labels("column", parse_source(tmp_path / "list.txt", "b"))


# --- The chunk -----------------------------------------------------------------------------------------------------


def chunk_of(labels, count=5):
    return Chunk(job=JOB, bucket="b", keys=tuple(f"k{number}" for number in range(count)), start=32, labels=labels)


def test_labels_go_with_their_keys_through_halves_and_the_wire():
    chunk = chunk_of(("a", None, "b", "c", None))
    left, right = chunk.halves()
    assert (left.labels, right.labels) == (("a", None), ("b", "c", None))
    assert (right.start, right.halves()[1].labels) == (34, ("c", None))
    assert Chunk.from_message(json.loads(json.dumps(chunk.to_message()))) == chunk
    assert chunk.chunk_id == chunk_of(None).chunk_id
    assert "labels" not in chunk_of(None).to_message()
    assert chunk_of(None).halves()[0].labels is None


@pytest.mark.parametrize("labels", [("a",), ("",) * 5, ("x" * (MAX_LABEL + 1),) * 5, (7,) * 5])
def test_labels_that_fit_no_keys_are_refused(labels):
    with pytest.raises(ContractError, match="label"):
        Chunk.from_message({**chunk_of(None).to_message(), "labels": labels})


# --- The run -------------------------------------------------------------------------------------------------------


def labelled_run(settings, source, rule="folder") -> OpenRun:
    request = make_request("evaluate", source, settings, settings.queue, {"labels": rule})
    run, feed = submit_run(request, settings, pytest.fail)
    assert feed.join(60)
    return run


def labels_by_key(chunks):
    return {key: label for chunk in chunks for key, label in zip(chunk.keys, chunk.labels, strict=True)}


def test_labels_stand_in_the_manifest_and_in_every_chunk(settings, bucket, store, put_keys):
    folders = ("tench", "goldfish")
    wanted: dict[str, str | None] = {f"in/{name}/{number}.jpg": name for name in folders for number in range(20)}
    put_keys([*wanted, "in/stray.jpg"])
    wanted["in/stray.jpg"] = None
    run = labelled_run(settings, f"s3://{bucket}/in/")
    assert run.record.labels == "folder"
    manifest = pq.read_table(io.BytesIO(bytes(obstore.get(store, run.address.manifest_key(0)).bytes())))
    assert dict(zip(manifest["key"].to_pylist(), manifest["label"].to_pylist(), strict=True)) == wanted
    assert labels_by_key(queued_chunks(settings)) == wanted


def test_a_resumed_run_and_lost_chunks_have_their_labels(settings, bucket, put_keys):
    wanted = {f"in/{folder}/{number:02d}.jpg": folder for folder in ("tench", "goldfish") for number in range(20)}
    put_keys(wanted)
    run = labelled_run(settings, f"s3://{bucket}/in/")
    chunks = take_chunks(settings)
    finish_chunk(settings, chunks[0].halves()[0])
    assert producer.open_run(str(run.address), settings=settings).resume().wait_enqueued(60)
    again = queued_chunks(settings)
    assert again == [chunks[0].halves()[1], *chunks[1:]]
    places = [ChunkPlace.parse(chunk.chunk_id) for chunk in (chunks[0].halves()[1], chunks[2])]
    assert list(lost_chunks(run, 0, places)) == [chunks[0].halves()[1], chunks[2]]


@pytest.mark.parametrize("kind", ["glob", "manifest"])
def test_a_listing_that_was_cut_off_goes_on_with_labels(kind, settings, bucket, store, put_keys, tmp_path):
    small = settings.model_copy(update={"chunk_size": 1, "queue_window": 1_000})
    wanted = {f"in/{folder}/{number:03d}.jpg": folder for folder in ("goldfish", "tench") for number in range(60)}
    put_keys(wanted)
    write_csv(tmp_path / "list.csv", [(f"s3://{bucket}/{key}", label) for key, label in wanted.items()])
    source, rule = (f"s3://{bucket}/in/**", "folder") if kind == "glob" else (tmp_path / "list.csv", "column:label")
    run = labelled_run(small, source, rule)
    obstore.delete(store, [run.address.frozen_key, run.address.manifest_key(1)])
    with make_redis(small) as client:
        client.flushall()
    again = producer.open_run(str(run.address), settings=small)
    assert again.resume().wait_enqueued(60)
    assert labels_by_key(queued_chunks(small)) == wanted


def test_a_manifest_whose_labels_changed_is_not_gone_on_with(settings, bucket, store, tmp_path):
    small = settings.model_copy(update={"chunk_size": 1})
    rows = [(f"s3://{bucket}/{number:03d}.jpg", "tench") for number in range(100)]
    write_csv(tmp_path / "list.csv", rows)
    run = labelled_run(small, tmp_path / "list.csv", "column")
    obstore.delete(store, [run.address.frozen_key, run.address.manifest_key(1)])
    write_csv(tmp_path / "list.csv", [(key, "goldfish") for key, _ in rows])
    with pytest.raises(SourceError, match="has changed since"):
        producer.open_run(str(run.address), settings=small).resume().wait_enqueued(60)


def test_a_source_whose_keys_have_no_label_is_refused(settings, bucket, put_keys):
    put_keys(["in/a.jpg", "in/b.jpg"])
    with pytest.raises(SourceError, match=r"no label by 'folder' \(2 looked at, such as 'in/a.jpg'\); write"):
        labelled_run(settings, f"s3://{bucket}/in/")


def test_classify_takes_no_labels(settings, bucket):
    with pytest.raises(UsageError, match="classify takes no labels; evaluate and fine_tune do"):
        make_request("classify", f"s3://{bucket}/", settings, settings.queue, {"labels": "folder"})
