"""A number of keys -> how fast this machine freezes, enqueues and looks at so many, against real servers.

The keys are made up; what handles them is the product's own: producer.run freezes and chunks, the Enqueuer sends,
RunPoller and autoscale's RunWatch look. Nothing is classified.
"""

import hashlib
import os
import resource
import secrets
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import obstore

from benchmarks.machine import describe_machine
from config.clients import make_redis, make_s3, make_store
from config.messages import Chunk, Job
from config.results import ChunkSummary, RunAddress, RunRecord, Status
from config.settings import Settings, read_settings
from producer.backlog import RunWatch
from producer.enqueuer import Enqueuer
from producer.frozen import Totals, count_parts
from producer.lister import open_listing
from producer.pages import ListedKey
from producer.records import write_run
from producer.run import OpenRun, chunks_of, freeze_rest
from producer.servers import running_s3, running_valkey
from producer.source import PrefixSource
from producer.status import RunPoller

BUCKET = "sizing"
OUTPUT = f"s3://{BUCKET}/results/"

#: Keys of a chunk where only the number of chunks matters.
SMALL_CHUNK = 16

#: Writes in flight while summaries and objects are made.
PUT_THREADS = 16


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is made: keys that are frozen, objects that are listed, summaries that are looked at."""

    keys: int = 10_000_000
    objects: int = 10_000
    summaries: int = 10_000


def measure(sizes: Sizes) -> dict[str, Any]:
    """Everything, with what it was measured on."""
    with tempfile.TemporaryDirectory(prefix="pixelherd-sizing-") as name:
        directory = Path(name)
        with running_s3(directory) as s3, running_valkey(directory) as valkey:
            settings = read_settings(**s3.settings, **valkey.settings)
            with closing(make_s3(settings)) as client:
                client.create_bucket(Bucket=BUCKET)
            run = _new_run(settings)
            found = {
                "freeze": measure_freeze(run, sizes.keys),
                "enqueue": measure_enqueue(run),
                "status": measure_status(
                    _new_run(settings.model_copy(update={"chunk_size": SMALL_CHUNK})), sizes.summaries
                ),
                "list": measure_list(settings, sizes.objects),
            }
    load = os.getloadavg()[2]  # of the last quarter of an hour
    return {
        "machine": describe_machine(),
        "load": load,
        "at": f"{datetime.now(UTC):%Y-%m-%d}",
        "sizes": asdict(sizes),
        **found,
    }


def measure_freeze(run: OpenRun, keys: int) -> dict[str, float]:
    """Made-up keys to manifest parts in S3: the second half of listing, which is the same for each source."""
    before = _rss_mb()
    with _timed() as took:
        parts = sum(1 for _ in freeze_rest(run, _made_up(keys), 0, Totals(), Event()))
    stored = sum(found["size"] for page in obstore.list(run.store, run.address.manifests) for found in page)
    return {
        "keys": keys,
        "keys_per_s": keys / took[0],
        "keys_per_cpu_s": keys / took[1],
        "bytes_per_key": stored / keys,
        "parts": parts,
        "producer_rss_mb": _rss_mb(),
        "producer_rss_before_mb": before,
    }


def measure_enqueue(run: OpenRun) -> dict[str, float]:
    """Frozen parts to messages in Redis, as many as do not fill the window: then the Enqueuer would wait for room."""
    window = run.settings.queue_window - 1
    with make_redis(run.settings) as client:
        before = int(client.info("memory")["used_memory"])
        with Enqueuer(run.settings, run.settings.queue, _say_nothing, Event()) as enqueuer, _timed() as took:
            sent = enqueuer.send(islice(_chunks(run), window))
        held = int(client.info("memory")["used_memory"]) - before
        client.flushall()
    return {
        "chunks": sent,
        "chunks_per_s": sent / took[0],
        "chunks_per_cpu_s": sent / took[1],
        "redis_bytes_per_chunk": held / sent,
    }


def measure_status(run: OpenRun, summaries: int) -> dict[str, float]:
    """Looks at a run of which half is done."""
    size = run.record.chunk_size
    _ = sum(1 for _ in freeze_rest(run, _made_up(2 * summaries * size), 0, Totals(), Event()))
    chunks = islice(_chunks(run), summaries)
    with ThreadPoolExecutor(PUT_THREADS) as pool, _timed() as wrote:
        list(pool.map(partial(_put_summary, run), chunks))
    poller, watch = RunPoller(run), RunWatch(run)
    with _timed() as first:
        seen = poller.poll().chunks_done
    with _timed() as again:
        poller.poll()
    with _timed() as names:
        to_do = watch.look().to_do
    with _timed() as names_again:
        watch.look()
    _check(seen == summaries and to_do == summaries * size, f"{seen} chunks done, {to_do} images to do")
    return {
        "summaries": summaries,
        "put_per_s": summaries / wrote[0],
        "first_look_s": first[0],
        "first_look_cpu_s": first[1],
        "next_look_s": again[0],
        "names_first_look_s": names[0],
        "names_first_look_cpu_s": names[1],
        "names_next_look_s": names_again[0],
    }


def measure_list(settings: Settings, objects: int) -> dict[str, float]:
    """Objects of a bucket to keys, a thousand at a request."""
    store = make_store(settings, BUCKET)
    with ThreadPoolExecutor(PUT_THREADS) as pool:
        list(pool.map(lambda number: obstore.put(store, f"in/{number:09d}.jpg", b"x"), range(objects)))
    listing = open_listing(PrefixSource(f"s3://{BUCKET}/in/", BUCKET, "in/"), settings, OUTPUT)
    with _timed() as took:
        listed = sum(1 for _ in listing.keys)
    _check(listed == objects, f"{listed} keys listed")
    return {"objects": objects, "keys_per_s": objects / took[0], "keys_per_cpu_s": objects / took[1]}


def _new_run(settings: Settings) -> OpenRun:
    run_id = f"sizing-{secrets.token_hex(4)}"
    job = Job(run_id=run_id, model="resnet50", output=OUTPUT)
    record = RunRecord(
        job=job,
        source="made up",
        bucket=BUCKET,
        chunk_size=settings.chunk_size,
        created_at=datetime.now(UTC),
        versions={},
    )
    run = OpenRun(RunAddress.of(OUTPUT, run_id), record, make_store(settings, BUCKET), settings, _say_nothing)
    write_run(run.store, run.address, record)
    return run


def _made_up(keys: int) -> Iterator[ListedKey]:
    """Names as cameras and programs give them, with what a listing says of each."""
    written_at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(keys):
        name = f"photos/2026/{number // 30_000:03d}/IMG_{number:09d}.jpg"
        digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()  # as S3 makes an ETag: it packs badly
        yield ListedKey(name, 60_000 + int(digest[:4], 16), f'"{digest}"', written_at)


def _chunks(run: OpenRun) -> Iterator[Chunk]:
    for part in range(count_parts(run.store, run.address)):
        yield from chunks_of(run, part)


def _put_summary(run: OpenRun, chunk: Chunk) -> None:
    now = datetime.now(UTC)
    summary = ChunkSummary(
        chunk_id=chunk.chunk_id,
        counts={Status.OK: len(chunk.keys)},
        seconds=dict.fromkeys(("fetch", "decode", "model", "write", "chunk"), 1.0),
        size_bytes=1,
        part_bytes=1,
        worker="sizing:1",
        started_at=now,
        ended_at=now,
    )
    obstore.put(run.store, run.address.summary_key(chunk.chunk_id), summary.to_json())


def _check(right: bool, what: str) -> None:
    """A figure about work that was not done is none."""
    if not right:
        raise RuntimeError(what)


@contextmanager
def _timed() -> Iterator[list[float]]:
    """A list that holds the block's seconds when it is over, and those of this process's CPU."""
    took: list[float] = []
    began, began_cpu = time.perf_counter(), time.process_time()
    yield took
    took += time.perf_counter() - began, time.process_time() - began_cpu


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _say_nothing(text: str) -> None:
    """Nobody listens."""
