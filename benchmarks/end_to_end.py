"""End to end: from photographs in S3 through producer, Redis and a real worker to Parquet in S3, and how fast."""

import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pyarrow.parquet as pq

from benchmarks.machine import Moment, Usage, usage_between
from benchmarks.memory import MemoryFigures, MemoryWatch
from benchmarks.photographs import RESULTS
from config.clients import make_store
from config.results import ChunkSummary, RunAddress, provenance_of
from config.settings import Settings
from producer.commands.outcome import DONE
from producer.local_stack import child_environment, plain_settings, running_worker, write_config
from producer.servers import Server, running_valkey


@dataclass(frozen=True, slots=True)
class Request:
    """One run: what a person types after `pixelherd submit classify`."""

    source: str
    images: int
    model: str
    weights: str | None


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run from the command to its last row."""

    images: int
    chunks: int
    #: From the start of the command to its end.
    seconds: float
    #: From the first chunk's start to the last one's end, by their summaries.
    steady_s: float
    usage: Usage
    #: What the run's Parquet says of itself.
    provenance: dict[str, str]

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    @property
    def steady_images_per_s(self) -> float:
        return self.images / self.steady_s


@dataclass(frozen=True, slots=True)
class Worker:
    """A started broker and worker, and what a run through them needs."""

    settings: Settings
    config: Path
    pids: dict[str, int]


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """A cold run, its broker and worker started for it, and a warm one through the same worker."""

    cold: RunFigures
    #: From before the broker's start to the end of the cold run's command.
    cold_s: float
    warm: RunFigures
    memory: MemoryFigures | None

    @property
    def cold_images_per_s(self) -> float:
        return self.cold.images / self.cold_s


@contextmanager
def started_worker(settings: Settings, s3: Server, directory: Path) -> Iterator[Worker]:
    """A broker and a worker with these settings."""
    directory.mkdir()
    with running_valkey(directory) as valkey:
        settings = Settings(**{**plain_settings(settings), **valkey.settings})
        with running_worker(settings, directory) as worker:
            config = write_config(settings, directory / "pixelherd.toml")
            pids = {"worker": worker.pid, "broker": valkey.child.pid, "S3 server": s3.child.pid}
            yield Worker(settings, config, pids)


def measure_end_to_end(requests: tuple[Request, Request], settings: Settings, s3: Server, directory: Path) -> EndToEnd:
    """The first request through a broker and a worker that start now, the second one through the same."""
    began = time.monotonic()
    with started_worker(settings, s3, directory / "worker") as worker:
        cold = measure_run(requests[0], worker)
        cold_s = time.monotonic() - began
        with MemoryWatch(worker.pids["worker"]) as memory:
            warm = measure_run(requests[1], worker)
    return EndToEnd(cold, cold_s, warm, memory.figures())


def measure_run(request: Request, worker: Worker) -> RunFigures:
    """Submit by the command in a process of its own, wait, and read what S3 holds of the run."""
    options = ["--model", request.model, "--output", RESULTS, "--json"]
    if request.weights:
        options += ["--weights", request.weights]
    began, children_s = Moment.now(worker.pids), _ended_children_s()
    status = run_command("submit", "classify", request.source, *options, config=worker.config)
    ended = Moment.now(worker.pids)
    usage = usage_between(began, ended, {"producer": _ended_children_s() - children_s})
    if status["done"] != request.images or status["errors"]:
        raise RuntimeError(f"{request.images} images were to be classified: {status}")
    return _figures(RunAddress.parse(status["address"]), worker.settings, usage)


def run_command(*arguments: str, config: Path) -> dict[str, Any]:
    """The JSON that `pixelherd …` prints."""
    command = [sys.executable, "-m", "producer.cli", *arguments]
    done = subprocess.run(command, env=child_environment(config), capture_output=True, text=True, check=False)
    if done.returncode != DONE:
        raise RuntimeError(f"pixelherd {' '.join(arguments)} ended with code {done.returncode}: {done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _figures(run: RunAddress, settings: Settings, usage: Usage) -> RunFigures:
    store = make_store(settings, run.bucket)
    names = [entry["path"] for page in obstore.list(store, run.summaries) for entry in page]
    summaries = [ChunkSummary.from_json(bytes(obstore.get(store, name).bytes())) for name in names]
    steady = max(summary.ended_at for summary in summaries) - min(summary.started_at for summary in summaries)
    part = bytes(obstore.get(store, run.part_key(summaries[0].chunk_id)).bytes())
    return RunFigures(
        images=sum(summary.images for summary in summaries),
        chunks=len(summaries),
        seconds=usage.seconds,
        steady_s=steady.total_seconds(),
        usage=usage,
        provenance=provenance_of(pq.read_schema(io.BytesIO(part))),
    )


def _ended_children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
