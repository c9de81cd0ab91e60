"""Report: from a run's record, status and failures to its summary: text for a person, JSON for a program."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import obstore

from config.results import ChunkFailure, ChunkPlace, RunRecord, Status
from producer.progress import clock
from producer.records import list_names
from producer.run import OpenRun
from producer.status import RunPoller, RunStatus
from producer.translate import s3_errors

#: Failed chunks that are told one by one; the rest are a number.
FAILURES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run was asked for, how it went, and the first of the chunks that were given up."""

    record: RunRecord
    status: RunStatus
    failures: tuple[ChunkFailure, ...]

    @property
    def warning(self) -> str | None:
        """What a person must see in red: the classes of random weights mean nothing."""
        weights = self.record.job.weights
        if weights is None or weights.uri != "random":
            return None
        return "RANDOM WEIGHTS: the classes below mean nothing; this run measures speed only"

    def to_json(self) -> str:
        """All of it, for a program."""
        report: dict[str, Any] = {
            "record": self.record.model_dump(mode="json"),
            "status": self.status.to_json(),
            "failures": [failure.model_dump(mode="json") for failure in self.failures],
            "warning": self.warning,
        }
        return json.dumps(report, indent=1)

    def to_text(self) -> str:
        """All of it, for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        job, status = self.record.job, self.status
        weights = job.weights.uri if job.weights else "the model's own"
        if self.warning:
            yield self.warning
        yield f"run       {status.run_id}: {status.phase.value}"
        yield f"what      {job.mode.value} with {job.model}, weights {weights}, engine {job.engine.value}"
        yield f"source    {self.record.source} (bucket {self.record.bucket})"
        yield f"results   {status.address}/parts/*.parquet"
        images = f"{status.images:,}" if status.images is not None else f"{status.listed:,} or more"
        yield f"images    {status.done:,} of {images} done, {status.failed:,} given up"
        for ended_as, count in status.counts.items():
            yield f"          {count:>12,} {ended_as.value}"
        yield from self._speed()
        yield from self._trouble()

    def _speed(self) -> Iterator[str]:
        status = self.status
        if status.started_at is None:
            return
        rate = f"{status.images_per_s:,.1f} images/s" if status.images_per_s else "no images/s yet"
        wall = f" in {clock((status.ended_at - status.started_at).total_seconds())}" if status.ended_at else ""
        yield f"speed     {rate}{wall}, {status.size_bytes / 1e6:,.1f} MB read, {status.chunks_done:,} chunks"
        stages = ", ".join(f"{stage} {spent:,.1f}" for stage, spent in status.seconds.items())
        yield f"seconds   {stages} (added over all workers)"

    def _trouble(self) -> Iterator[str]:
        for failure in self.failures:
            place = ChunkPlace.parse(failure.chunk_id)
            yield f"given up  {failure.chunk_id} ({place.count} images, {failure.tries} tries): {failure.error}"
        if self.status.chunks_failed > len(self.failures):
            yield f"          and {self.status.chunks_failed - len(self.failures):,} more chunks"
        if self.status.chunks_failed:
            yield f"try again pixelherd resume {self.status.run_id}"
        if self.status.errors:
            rows = f"FROM '{self.status.address}/parts/*.parquet' WHERE status <> '{Status.OK.value}'"
            yield f"errors    SELECT key, status, error {rows}"


def make_report(run: OpenRun, status: RunStatus | None = None) -> RunReport:
    """The report of a run at this moment."""
    status = status or RunPoller(run).poll()
    names = list_names(run.store, run.address.failures) if status.chunks_failed else iter(())
    failures = [_read_failure(run, name) for name in islice(names, FAILURES_SHOWN)]
    return RunReport(run.record, status, tuple(failures))


def _read_failure(run: OpenRun, name: str) -> ChunkFailure:
    key = run.address.failure_key(name)
    with s3_errors(f"read {key}"):
        return ChunkFailure.from_json(bytes(obstore.get(run.store, key).bytes()))
