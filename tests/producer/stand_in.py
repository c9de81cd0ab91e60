"""What workers leave, without a network: takes messages from the real queue, writes real parts and summaries."""

import base64
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from threading import Event, Thread
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from config.clients import make_redis, make_store
from config.layers import known_shapes
from config.messages import Chunk
from config.results import ChunkFailure, ChunkSummary, RunAddress, Status, row_schema, with_provenance
from config.settings import Settings

#: Says how an image ends, by its key.
Judge = Callable[[str], Status]


def all_ok(key: str) -> Status:
    return Status.OK


def read_message(message: bytes) -> tuple[dict[str, Any], Chunk]:
    """Headers and chunk of a Celery message as it lies in Redis."""
    envelope = json.loads(message)
    _, kwargs, _ = json.loads(zlib.decompress(base64.b64decode(envelope["body"])))
    return envelope["headers"], Chunk.from_message(kwargs["chunk"])


def queued_chunks(settings: Settings, queue: str | None = None) -> list[Chunk]:
    """What waits in the queue, the oldest first."""
    with make_redis(settings) as client:
        messages: Any = client.lrange(queue or settings.queue, 0, -1)
    return [read_message(message)[1] for message in reversed(messages)]


def take_chunks(settings: Settings, limit: int | None = None, queue: str | None = None) -> list[Chunk]:
    """Take chunks from the queue as a worker does, the oldest first."""
    taken: list[Chunk] = []
    with make_redis(settings) as client:
        while limit is None or len(taken) < limit:
            message: Any = client.rpop(queue or settings.queue)
            if message is None:
                break
            taken.append(read_message(message)[1])
    return taken


def finish_chunk(settings: Settings, chunk: Chunk, judge: Judge = all_ok, chunk_s: float = 2.0) -> None:
    """Write the rows of a chunk, then its summary."""
    run, job = RunAddress.of(chunk.job.output, chunk.job.run_id), chunk.job
    store = make_store(settings, run.bucket)
    statuses = [judge(key) for key in chunk.keys]
    schema = with_provenance(row_schema(job, known_shapes(job)), {"run_id": job.run_id, "model": job.model})
    rows = [
        {"key": key, "status": status.value, "class_name": "tabby" if status is Status.OK else None}
        for key, status in zip(chunk.keys, statuses, strict=True)
    ]
    part = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), part)
    obstore.put(store, run.part_key(chunk.chunk_id), part.getvalue())
    ended_at = datetime.now(UTC)
    summary = ChunkSummary(
        chunk_id=chunk.chunk_id,
        counts=dict(Counter(statuses)),
        seconds={"chunk": chunk_s, "fetch": 0.5},
        size_bytes=100 * len(chunk.keys),
        part_bytes=len(part.getvalue()),
        worker="stand-in:1",
        started_at=ended_at - timedelta(seconds=chunk_s),
        ended_at=ended_at,
    )
    obstore.put(store, run.summary_key(chunk.chunk_id), summary.to_json())


def fail_chunk(settings: Settings, chunk: Chunk, error: str = "throttled") -> None:
    """Give a chunk up."""
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    failure = ChunkFailure(
        chunk_id=chunk.chunk_id, error=error, tries=6, worker="stand-in:1", failed_at=datetime.now(UTC)
    )
    obstore.put(make_store(settings, run.bucket), run.failure_key(chunk.chunk_id), failure.to_json())


class StandIn:
    """Takes and ends chunks in a thread until it is left."""

    def __init__(self, settings: Settings, queue: str | None = None, judge: Judge = all_ok) -> None:
        self._settings, self._queue, self._judge = settings, queue, judge
        self._left = Event()
        self._thread = Thread(target=self._work, daemon=True)
        self.chunks: list[Chunk] = []

    def __enter__(self) -> "StandIn":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._left.is_set():
            for chunk in take_chunks(self._settings, queue=self._queue):
                finish_chunk(self._settings, chunk, self._judge)
                self.chunks.append(chunk)
            time.sleep(0.01)
