"""Run: from what a person asks for to a run in S3 and in the queue: list, freeze, chunk, enqueue."""

import platform
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice, takewhile
from threading import Event

from botocore.exceptions import ClientError
from obstore.store import S3Store
from pydantic import ValidationError

from config.clients import make_s3, make_store
from config.errors import UsageError
from config.messages import Chunk, Job, Mode, describe
from config.models import MODELS
from config.results import FrozenManifest, RunAddress, RunRecord, split_uri
from config.settings import Settings
from config.steps import TRAINING_PLACE, TrainingStep
from producer.chunker import choose_chunk_size, pack_chunks, part_size
from producer.enqueuer import Enqueuer, OnEvent, check_broker
from producer.features import check_size
from producer.feed import Feed
from producer.frozen import Totals, freeze_part, labelled, read_part, take_part
from producer.held import announced
from producer.labels import check_classes, check_labelled
from producer.lister import default_output, open_listing
from producer.objects import head_sizes
from producer.pages import ListedKey
from producer.records import write_frozen, write_run
from producer.request import RunRequest
from producer.trained import next_step
from producer.training import check_images
from producer.translate import FORBIDDEN, s3_code, s3_errors
from producer.validation import with_validation

#: What job.json says of the producer's side.
VERSIONS = ("pixelherd", "celery", "kombu", "obstore", "pyarrow")

#: Characters of a run's id that mode and model may take of the 80 that there are.
RUN_NAME = 56

#: In place of a part's number: what comes behind the last one.
END = TRAINING_PLACE.part

#: Random bytes that tell apart two runs of one second.
RUN_ID_BYTES = 2


@dataclass(frozen=True, slots=True)
class OpenRun:
    """One run: where it lies, what it was asked for, how it is reached, and who hears of what happens."""

    address: RunAddress
    record: RunRecord
    store: S3Store
    settings: Settings
    on_event: OnEvent


def submit_run(request: RunRequest, settings: Settings, on_event: OnEvent) -> tuple[OpenRun, Feed]:
    """Begin a run: when this returns, job.json and the first manifest part stand; the Feed does the rest.

    Nothing is written or enqueued where the broker, the source or the output refuses.
    """
    check_broker(settings)
    listing = open_listing(request.source, settings, request.output, labels=request.labels)
    listing = with_validation(listing, request.validation, settings, request.output)
    largest = request.chunk_size(settings.chunk_size)
    first = take_part(listing.keys, part_size(0, largest))
    if request.labels is not None:
        check_labelled(first, request.labels, request.source)
    if request.mode is Mode.EVALUATE:
        check_classes(first, request.classes)
    following = list(islice(listing.keys, 1))
    if request.training is not None and not following:
        check_images(first, request.training)
    if request.features is not None:
        check_size(request.features, first, not following, partial(head_sizes, listing.bucket, settings))
    job = make_job(request, listing.bucket)
    check_output(job.output, settings)
    record = RunRecord(
        job=job,
        source=request.source.text,
        bucket=listing.bucket,
        queue=request.queue,
        labels=request.labels.text if request.labels else None,
        chunk_size=largest if following else choose_chunk_size(first.num_rows, largest),
        created_at=datetime.now(UTC),
        versions=versions(),
    )
    address = RunAddress.of(job.output, job.run_id)
    run = OpenRun(address, record, make_store(settings, address.bucket), settings, on_event)
    write_run(run.store, address, record)
    totals = freeze_part(run.store, address, 0, first, Totals())

    stopped = Event()
    rest = freeze_rest(run, chain(following, listing.keys), 1, totals, stopped)
    return run, start_feed(run, chain([0], rest, [END]), partial(messages_of, run), request.queue, stopped)


def freeze_rest(run: OpenRun, keys: Iterator[ListedKey], part: int, totals: Totals, stopped: Event) -> Iterator[int]:
    """Freeze the keys as part `part` and further ones, yield each number, and mark the manifest complete."""
    ended = False
    while not ended:
        size = part_size(part, run.record.chunk_size)
        table = take_part(takewhile(lambda _: not stopped.is_set(), keys), size)
        if stopped.is_set():  # perhaps in the middle of a page: what looks like the end of the listing is none
            return
        ended = table.num_rows < size
        if table.num_rows:
            totals = freeze_part(run.store, run.address, part, table, totals)
            yield part
            part += 1
    freeze_end(run, part, totals)


def freeze_end(run: OpenRun, parts: int, totals: Totals) -> None:
    """Mark the manifest complete: from here on the number of images is known."""
    write_frozen(
        run.store,
        run.address,
        FrozenManifest(parts=parts, keys=totals.keys, size_bytes=totals.size_bytes, frozen_at=datetime.now(UTC)),
    )


def chunks_of(run: OpenRun, part: int) -> Iterator[Chunk]:
    """All chunks of a frozen part, with labels where the run has a rule for them."""
    record, table = run.record, read_part(run.store, run.address, part)
    chunks = pack_chunks(record.job, record.bucket, part, table["key"].to_pylist(), record.chunk_size)
    if record.labels is None:
        yield from chunks
        return
    labels = labelled(table)["label"].to_pylist()
    for chunk in chunks:
        found = tuple(labels[chunk.start : chunk.start + len(chunk.keys)])
        yield chunk.model_copy(update={"labels": found})


def messages_of(run: OpenRun, part: int) -> Iterator[Chunk | TrainingStep]:
    """All chunks of a frozen part; at the END, with which a training begins that waits for them all."""
    yield from steps_of(run) if part == END else chunks_of(run, part)


def steps_of(run: OpenRun) -> Iterator[TrainingStep]:
    """The step that the run's training wants next; nothing where it has none, or where keys are still to be listed."""
    step = next_step(run.store, run.address, run.record)
    if step is not None:
        yield step


def start_feed(
    run: OpenRun,
    parts: Iterator[int],
    chunks_to_send: Callable[[int], Iterable[Chunk | TrainingStep]],
    queue: str,
    stopped: Event,
) -> Feed:
    """Freeze and enqueue in the background; which chunks of a part are sent is the caller's function."""

    def enqueue(frozen: Iterator[int]) -> int:
        with (
            Enqueuer(run.settings, queue, run.on_event, stopped) as enqueuer,
            announced(run.settings, run.address.run_id, enqueuer.reached),
        ):
            return sum(enqueuer.send(chunks_to_send(part)) for part in frozen)

    feed = Feed(parts, enqueue, stopped)
    feed.start()
    return feed


def make_job(request: RunRequest, bucket: str) -> Job:
    """The job that every chunk of the run carries; UsageError names what is out of range."""
    try:
        return Job(
            run_id=new_run_id(request.mode, request.model.name),
            mode=request.mode,
            model=request.model.name,
            spec=None if request.model == MODELS.get(request.model.name) else request.model,
            weights=request.weights,
            preprocess_digest=request.model.preprocess_digest,
            output=request.output or default_output(bucket),
            top_k=request.top_k,
            engine=request.engine,
            precision=request.precision,
            features=request.features.options if request.features else None,
            training=request.training,
        )
    except ValidationError as error:
        raise UsageError(describe(error)) from error


def new_run_id(mode: Mode, model: str) -> str:
    """A name that sorts by time and says what it is, such as 20261122-103000-classify-resnet50-3fa2."""
    name = f"{mode.value}-{model}".replace("_", "-").lower()[:RUN_NAME]
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(RUN_ID_BYTES)}"


def check_output(output: str, settings: Settings) -> None:
    """Refuse an output whose bucket is not there, before a server is asked to write in it ten times."""
    bucket, base = split_uri(output)
    if any(segment in ("", ".", "..") or not segment.isprintable() for segment in base.strip("/").split("/") if base):
        raise UsageError(f"results cannot go to {output!r}: a prefix has plain names between single slashes")
    with s3_errors(f"write to s3://{bucket}"), closing(make_s3(settings)) as s3:
        try:
            s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if s3_code(error) not in FORBIDDEN:  # some may write who may not look; the first write will say
                raise


def versions() -> dict[str, str]:
    """Versions of what made the run."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # pixelherd itself, run from its source tree
            continue
    return found
