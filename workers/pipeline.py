"""Pipeline: from one Chunk to its Parquet part and its summary; the walk of a chunk on one page."""

import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from config.messages import Chunk
from config.models import find_model
from config.results import ROW_SCHEMAS, ChunkFailure, ChunkSplit, ChunkSummary, RunAddress, with_provenance
from workers.ahead import Budget
from workers.batch import in_batches
from workers.decode import DecodeLimits, decode_images
from workers.describe import DescribeImages
from workers.errors import ImagePoison
from workers.fetch import FetchLimits, fetch_images
from workers.infer import InferTimes, infer_batches
from workers.sample import Sample
from workers.workbench import Workbench
from workers.write import count_statuses, erase_part, rows_table, stands, write_part, write_record

logger = logging.getLogger(__name__)

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
    describe = describe_images(chunk.job, network.labels)
    bodies = Budget(settings.fetched_bytes)
    fetching = FetchLimits(settings.fetch_threads, settings.max_image_bytes)
    decoding = DecodeLimits(bench.decode_threads, settings.max_image_pixels, settings.decode_pixels)

    fetched = fetch_images(bench.opener(chunk.bucket), chunk.keys, fetching, bodies)
    decoded = decode_images(fetched, network.spec, decoding, bodies)
    batches = in_batches(decoded, network.engine.batch_size)
    samples: list[Sample] = []
    for batch, outputs in infer_batches(network.engine, batches, clock.infer):
        for sample, columns in zip(batch.decoded, describe(outputs) if batch.decoded else (), strict=True):
            sample.result = columns
        samples += batch.samples
    if may_write():
        write_chunk(chunk, bench, samples, network.provenance, clock)


def write_chunk(
    chunk: Chunk, bench: Workbench, samples: list[Sample], provenance: dict[str, Any], clock: Clock
) -> None:
    """The rows, then the summary, whose counts come from the rows that were written."""
    job = chunk.job
    run = RunAddress.of(job.output, job.run_id)
    results = bench.store(run.bucket)
    writing = time.perf_counter()
    schema = with_provenance(ROW_SCHEMAS[job.mode], {"run_id": job.run_id, "mode": job.mode, **provenance})
    table = rows_table(samples, schema)
    part_bytes = write_part(results, run.part_key(chunk.chunk_id), table)
    summary = ChunkSummary(
        chunk_id=chunk.chunk_id,
        counts=count_statuses(table),
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
    spec = find_model(chunk.job.model)
    poison = ImagePoison(f"{deaths} processes ended while they worked on this image alone")
    samples = [Sample(index, key).failed(poison) for index, key in enumerate(chunk.keys)]
    write_chunk(chunk, bench, samples, {"model": spec.name, "preprocess_digest": spec.preprocess_digest}, Clock())


def split_chunk(chunk: Chunk, bench: Workbench, deaths: int) -> tuple[Chunk, ...]:
    """The halves to send in a chunk's place; none where it is done or cancelled.

    The mark stands before the halves exist, so that a late copy of the whole chunk becomes halves too. Rows that
    a dead process wrote without a summary would stand beside the halves' own, so they go first.
    """
    if is_settled(chunk, bench):
        return ()
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    results, halves = bench.store(run.bucket), chunk.halves()
    split = ChunkSplit(
        chunk_id=chunk.chunk_id,
        halves=(halves[0].chunk_id, halves[1].chunk_id),
        deaths=deaths,
        split_at=datetime.now(UTC),
    )
    write_record(results, run.split_key(chunk.chunk_id), split)
    erase_part(results, run.part_key(chunk.chunk_id))
    return halves


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


def is_settled(chunk: Chunk, bench: Workbench) -> bool:
    """Whether the chunk is done or its run was cancelled, at the price of two HEADs."""
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
