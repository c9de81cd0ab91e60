"""Alone: from a job and some keys to the CPU seconds that each stage takes for one image when nothing else runs."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeVar

from benchmarks.machine import Moment, Usage, cpu_seconds, usage_between
from config.messages import Job
from config.settings import Settings
from workers.ahead import Budget
from workers.batch import in_batches
from workers.cnn.engines.options import usable_cores
from workers.decode import DecodeLimits, decode_images
from workers.fetch import FetchLimits, fetch_images
from workers.sample import Pixels, Sample
from workers.workbench import Network, Workbench

Made = TypeVar("Made")

#: Times that all keys are fetched: the kernel counts a server's CPU in steps of 10 ms.
FETCH_PASSES = 3

#: Batches that an engine computes before it is measured.
WARM_UP_BATCHES = 3


@dataclass(frozen=True, slots=True)
class Alone:
    """CPU seconds for one image, each measured alone; `limit` follows from them."""

    engine: str
    precision: str
    batch_size: int
    images: int
    #: CPU seconds of fetch, decode, model and S3 server.
    cpu_s: dict[str, float]
    #: Images per second of the engine with all cores to itself.
    model_images_per_s: float
    #: Seconds until the network was loaded, with its conversion (the machine's first time) and without.
    first_load_s: float
    load_s: float
    usage: Usage

    @property
    def total_s(self) -> float:
        return sum(self.cpu_s.values())

    @property
    def limit(self) -> float:
        """Images per second if every core did nothing else, without a pause."""
        return usable_cores() / self.total_s


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured: a job on these keys, with these settings and this S3 server."""

    settings: Settings
    job: Job
    bucket: str
    keys: tuple[str, ...]
    s3_pid: int


def measure_alone(bench: Bench) -> Alone:
    """Measure in a process of its own, whose memory and threads are gone afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, bench).result()


def _measure(bench: Bench) -> Alone:
    _, first_load_s = _load(bench)
    network, load_s = _load(bench)
    workbench = Workbench(bench.settings)
    pids = {"stages": os.getpid(), "S3 server": bench.s3_pid}
    measuring = Moment.now(pids)

    _fetch(bench, workbench)  # opens the connections, and has the server read its disk
    before_s3 = cpu_seconds(bench.s3_pid)
    samples, fetch_s = _cpu_of(lambda: [_fetch(bench, workbench) for _ in range(FETCH_PASSES)][-1])
    s3_s = cpu_seconds(bench.s3_pid) - before_s3

    limits = DecodeLimits.of(bench.settings, workbench.decode_threads)
    bodies = Budget(bench.settings.fetched_bytes)
    decoded, decode_s = _cpu_of(lambda: list(decode_images(samples, network.spec, limits, bodies)))

    size = network.engine.batch_size
    # Full batches only: the engine computes a short one at the same price.
    batches = [batch.pixels for batch in in_batches(decoded, size) if len(batch.decoded) == size]
    images = size * len(batches)
    _run(network, batches[:WARM_UP_BATCHES])
    began = time.perf_counter()
    _, model_s = _cpu_of(lambda: _run(network, batches))
    took_s = time.perf_counter() - began

    fetched = FETCH_PASSES * len(samples)
    return Alone(
        engine=network.engine.name,
        precision=network.engine.precision,
        batch_size=size,
        images=images,
        cpu_s={
            "fetch": fetch_s / fetched,
            "decode": decode_s / len(samples),
            "model": model_s / images,
            "S3 server": s3_s / fetched,
        },
        model_images_per_s=images / took_s,
        first_load_s=first_load_s,
        load_s=load_s,
        usage=usage_between(measuring, Moment.now(pids)),
    )


def _load(bench: Bench) -> tuple[Network, float]:
    began = time.perf_counter()
    network = Workbench(bench.settings).network(bench.job)
    return network, time.perf_counter() - began


def _fetch(bench: Bench, workbench: Workbench) -> list[Sample]:
    bodies = Budget(bench.settings.fetched_bytes)
    limits = FetchLimits(bench.settings.fetch_threads, bench.settings.max_image_bytes)
    samples = []
    for sample in fetch_images(workbench.opener(bench.bucket), bench.keys, limits, bodies):
        bodies.release(sample.index)
        samples.append(sample)
    return samples


def _run(network: Network, batches: Iterable[Pixels]) -> None:
    for _ in network.engine.run(batches):
        pass


def _cpu_of(work: Callable[[], Made]) -> tuple[Made, float]:
    """What the work makes, and the CPU seconds of all threads of this process meanwhile."""
    began = time.process_time()
    made = work()
    return made, time.process_time() - began
