"""Pipeline: from one Chunk to its Parquet part and its summary; the walk of a chunk on one page."""

import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from config.errors import ContractError
from config.features import Shape, bytes_per_image
from config.layers import known_shapes
from config.messages import Chunk, Job, job_spec
from config.results import (
    Cancellation,
    ChunkFailure,
    ChunkSplit,
    ChunkSummary,
    RunAddress,
    row_schema,
    with_provenance,
)
from workers.ahead import Budget
from workers.batch import in_batches
from workers.decode import DecodeLimits, decode_images
from workers.describe import Describe, DescribeImages
from workers.errors import ImagePoison
from workers.fetch import FetchLimits, fetch_images
from workers.infer import InferTimes, infer_batches
from workers.sample import Batch, Outputs, Sample
from workers.workbench import Workbench
from workers.write import count_labels, count_statuses, erase, rows_table, stands, write_part, write_record

logger = logging.getLogger(__name__)

#: Bytes of one chunk's features at most: they, their table and its Parquet are in memory at once.
MAX_FEATURE_BYTES = 512 * 2**20

#: Deaths over one image after which not even the network is loaded for its row: loading may be what kills.
DEATHS_BEFORE_NO_NETWORK = 3

#: Asked once, before anything is written: whether the chunk is still this process's.
MayWrite = Callable[[], bool]


@dataclass(slots=True)
class Clock:
    """When a chunk began, and where its time went."""

    started: float = field(default_factory=time.perf_counter)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    infer: InferTimes = field(default_factory=InferTimes)


def process_chunk(chunk: Chunk, bench: Workbench, describe_images: DescribeImages, may_write: MayWrite) -> None:
    """Fetch, decode, batch, infer, write; nothing where the chunk is done already or its run was cancelled.

    Raises TransientError when the chunk may succeed later; nothing of it stands then, or the same bytes will.
    """
    clock, settings = Clock(), bench.settings
    if is_settled(chunk, bench):
        return
    network = bench.network(chunk.job)
    check_room(chunk, network.shapes)
    describe = describe_images(chunk.job, network.labels)
    bodies = Budget(settings.fetched_bytes)
    fetching = FetchLimits(settings.fetch_threads, settings.max_image_bytes)
    decoding = DecodeLimits.of(settings, bench.decode_threads)

    fetched = with_labels(fetch_images(bench.opener(chunk.bucket), chunk.keys, fetching, bodies), chunk.labels)
    decoded = decode_images(fetched, network.spec, decoding, bodies)
    batches = in_batches(decoded, network.engine.batch_size)
    samples: list[Sample] = []
    for batch, outputs in infer_batches(network.engine, batches, clock.infer):
        for sample, columns in _described(batch, outputs, describe):
            sample.result = columns
        samples += batch.samples
    if may_write():
        write_chunk(chunk, bench, samples, part_schema(chunk.job, network.shapes, network.provenance), clock)
        if is_split(chunk, bench):  # this process stood still meanwhile, and was taken for dead
            withdraw(chunk, bench)


def with_labels(samples: Iterable[Sample], labels: Sequence[str | None] | None) -> Iterator[Sample]:
    """The samples, each with what is said to be on it."""
    for sample in samples:
        sample.label = labels[sample.index] if labels else None
        yield sample


def _described(batch: Batch, outputs: Outputs, describe: Describe) -> Iterator[tuple[Sample, dict[str, Any]]]:
    rows = describe(outputs, batch.decoded) if batch.decoded else []
    return zip(batch.decoded, rows, strict=True)


def check_room(chunk: Chunk, shapes: Sequence[Shape]) -> None:
    """ContractError where the features of so many keys would not fit into this process; a producer sends fewer."""
    if chunk.job.features is None:
        return
    each = bytes_per_image(chunk.job.features, shapes)
    if len(chunk.keys) > 1 and len(chunk.keys) * each > MAX_FEATURE_BYTES:
        raise ContractError(
            f"{len(chunk.keys)} images of {each:,} bytes of features are too many for one chunk: "
            f"send {max(1, MAX_FEATURE_BYTES // each)} keys at most, or pool the features"
        )


def part_schema(job: Job, shapes: Sequence[Shape] | None, provenance: dict[str, Any]) -> pa.Schema:
    """The columns of a job's rows, with the footer that says how they came about."""
    described = {"run_id": job.run_id, "mode": job.mode, **provenance}
    if job.features is not None:
        asked = job.features
        described |= {"layers": ",".join(asked.layers), "pool": asked.pool, "dtype": asked.dtype}
    return with_provenance(row_schema(job, shapes), described)


def write_chunk(chunk: Chunk, bench: Workbench, samples: list[Sample], schema: pa.Schema, clock: Clock) -> None:
    """The rows, then the summary, whose counts come from the rows that were written."""
    job = chunk.job
    run = RunAddress.of(job.output, job.run_id)
    results = bench.store(run.bucket)
    writing = time.perf_counter()
    table = rows_table(samples, schema)
    part_bytes = write_part(results, run.part_key(chunk.chunk_id), table)
    summary = ChunkSummary(
        chunk_id=chunk.chunk_id,
        counts=count_statuses(table),
        tally=count_labels(table),
        seconds={
            "fetch": sum(sample.fetch_s for sample in samples),
            "decode": sum(sample.decode_s for sample in samples),
            "infer": clock.infer.infer_s,
            "starved": clock.infer.starved_s,
            "write": time.perf_counter() - writing,
            "chunk": time.perf_counter() - clock.started,
        },
        size_bytes=sum(sample.size_bytes or 0 for sample in samples),
        part_bytes=part_bytes,
        worker=worker_name(),
        started_at=clock.started_at,
        ended_at=datetime.now(UTC),
    )
    write_record(results, run.summary_key(chunk.chunk_id), summary)
    _log(chunk, summary)


def write_poison(chunk: Chunk, bench: Workbench, deaths: int) -> None:
    """The row of a single key whose every try killed the process; nobody tries it again."""
    if is_settled(chunk, bench):
        return
    spec = job_spec(chunk.job)
    provenance = {"model": spec.name, "preprocess_digest": spec.preprocess_digest}
    schema = part_schema(chunk.job, _shapes_for_poison(chunk.job, bench, deaths), provenance)
    poison = ImagePoison(f"{deaths} processes ended while they worked on this image alone")
    samples = [Sample(index, key).failed(poison) for index, key in enumerate(chunk.keys)]
    write_chunk(chunk, bench, list(with_labels(samples, chunk.labels)), schema, Clock())


def _shapes_for_poison(job: Job, bench: Workbench, deaths: int) -> Sequence[Shape] | None:
    """The shapes of a job's features: from the tables, or else from the network, unless that may be what kills.

    Without them the columns of features are left out, which `producer.rows` puts right and other readers may not.
    """
    shapes = known_shapes(job)
    if shapes is None and job.features is not None and deaths <= DEATHS_BEFORE_NO_NETWORK:
        return bench.network(job).shapes
    return shapes


def split_chunk(chunk: Chunk, bench: Workbench, deaths: int) -> tuple[Chunk, ...]:
    """The halves to send in a chunk's place; none where it is done or cancelled.

    The mark stands before the halves exist, so that a late copy of the whole chunk becomes halves too. Rows of the
    whole would stand beside the halves' own: what was written before the mark is erased here, and what a process
    writes after it that process itself takes back, since it looks for the mark when it has written.
    """
    if is_settled(chunk, bench):
        return ()
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    halves = chunk.halves()
    split = ChunkSplit(
        chunk_id=chunk.chunk_id,
        halves=(halves[0].chunk_id, halves[1].chunk_id),
        deaths=deaths,
        split_at=datetime.now(UTC),
    )
    write_record(bench.store(run.bucket), run.split_key(chunk.chunk_id), split)
    withdraw(chunk, bench)
    return halves


def withdraw(chunk: Chunk, bench: Workbench) -> None:
    """Erase what stands of a chunk that goes on as halves: the summary first, since it vouches for the rows."""
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    for key in (run.summary_key(chunk.chunk_id), run.part_key(chunk.chunk_id)):
        erase(bench.store(run.bucket), key)


def is_split(chunk: Chunk, bench: Workbench) -> bool:
    """Whether the chunk goes on as halves."""
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    return stands(bench.store(run.bucket), run.split_key(chunk.chunk_id))


def give_up(chunk: Chunk, bench: Workbench, error: Exception, tries: int) -> None:
    """Leave a failure where the summary would be, so that the report shows the chunk and `resume` tries it again."""
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    text = str(error) or type(error).__name__
    failure = ChunkFailure(
        chunk_id=chunk.chunk_id, error=text, tries=tries, worker=worker_name(), failed_at=datetime.now(UTC)
    )
    write_record(bench.store(run.bucket), run.failure_key(chunk.chunk_id), failure)


def stop_run(chunk: Chunk, bench: Workbench, reason: str) -> None:
    """Have all workers leave the chunk's run alone, and say why; `resume` goes on when the reason is gone."""
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    results = bench.store(run.bucket)
    if not stands(results, run.cancelled_key):
        logger.error("run=%s stopped=%r", chunk.job.run_id, reason)
        write_record(results, run.cancelled_key, Cancellation(cancelled_at=datetime.now(UTC), reason=reason))


def is_settled(chunk: Chunk, bench: Workbench) -> bool:
    """Whether the chunk is done or its run was cancelled or stopped, at the price of two HEADs."""
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    for key in (run.summary_key(chunk.chunk_id), run.cancelled_key):
        if stands(bench.store(run.bucket), key):
            logger.info("chunk=%s run=%s skipped=%s", chunk.chunk_id, chunk.job.run_id, key.rpartition("/")[2])
            return True
    return False


def worker_name() -> str:
    """Host and process, for a person who reads a summary."""
    return f"{platform.node()}:{os.getpid()}"


def _log(chunk: Chunk, summary: ChunkSummary) -> None:
    seconds = " ".join(f"{stage}_s={spent:.2f}" for stage, spent in summary.seconds.items())
    counts = " ".join(f"{status}={count}" for status, count in summary.counts.items())
    logger.info("chunk=%s run=%s images=%d %s %s", chunk.chunk_id, chunk.job.run_id, summary.images, counts, seconds)
