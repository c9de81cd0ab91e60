"""Records: from the JSON objects of a run in S3 to their values, and back; and the names in its folders."""

from collections.abc import Iterator
from datetime import UTC, datetime

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from config.errors import UsageError
from config.results import Cancellation, ChunkFailure, FrozenManifest, RunAddress, RunRecord
from producer.translate import s3_errors


def write_run(store: S3Store, run: RunAddress, record: RunRecord) -> None:
    """Put job.json; never over another run's, and never inside of another run's folder."""
    for key in run.outer_job_keys:
        found = _read(store, key, f"read s3://{run.bucket}/{key}")
        if found is not None and RunRecord.is_one(found):
            raise UsageError(f"results cannot go into another run's folder: s3://{run.bucket}/{key} stands there")
    with s3_errors(f"write {run}"):
        try:
            obstore.put(store, run.job_key, record.to_json(), mode="create")
        except AlreadyExistsError as error:
            raise UsageError(f"there is a run at {run} already") from error


def read_run(store: S3Store, run: RunAddress) -> RunRecord:
    """What the run was asked for; UsageError where there is no run."""
    record = find_run(store, run)
    if record is None:
        raise UsageError(f"there is no run at {run}")
    return record


def find_run(store: S3Store, run: RunAddress) -> RunRecord | None:
    """As `read_run`; None where there is no run."""
    body = _read(store, run.job_key, f"read {run}")
    return None if body is None else RunRecord.from_json(body)


def write_page(store: S3Store, run: RunAddress, page: str) -> None:
    """Put report.html."""
    with s3_errors(f"write {run}"):
        obstore.put(store, run.report_key, page.encode(), attributes={"Content-Type": "text/html; charset=utf-8"})


def write_frozen(store: S3Store, run: RunAddress, frozen: FrozenManifest) -> None:
    """Mark the manifest complete."""
    with s3_errors(f"write {run}"):
        obstore.put(store, run.frozen_key, frozen.to_json())


def read_frozen(store: S3Store, run: RunAddress) -> FrozenManifest | None:
    """What marks the manifest complete; None while keys are being listed."""
    body = _read(store, run.frozen_key, f"read {run}")
    return None if body is None else FrozenManifest.from_json(body)


def write_cancelled(store: S3Store, run: RunAddress) -> None:
    """Tell the workers to leave this run's chunks alone."""
    with s3_errors(f"write {run}"):
        obstore.put(store, run.cancelled_key, Cancellation(cancelled_at=datetime.now(UTC)).to_json())


def write_failure(store: S3Store, run: RunAddress, failure: ChunkFailure) -> None:
    """Give a chunk up, as a worker does after its last try."""
    with s3_errors(f"write {run}"):
        obstore.put(store, run.failure_key(failure.chunk_id), failure.to_json())


def is_cancelled(store: S3Store, run: RunAddress) -> bool:
    """Whether the run was cancelled or stopped, at the price of one HEAD."""
    with s3_errors(f"read {run}"):
        try:
            obstore.head(store, run.cancelled_key)
        except FileNotFoundError:
            return False
    return True


def read_cancellation(store: S3Store, run: RunAddress) -> Cancellation | None:
    """What has the workers leave this run's chunks alone: a person, or one of them for a reason; mostly nothing."""
    body = _read(store, run.cancelled_key, f"read {run}")
    return None if body is None else Cancellation.from_json(body)


def delete(store: S3Store, run: RunAddress, key: str) -> None:
    """Remove one object of the run; nothing happens where there is none."""
    with s3_errors(f"change {run}"):
        try:
            obstore.delete(store, key)
        except FileNotFoundError:
            return


def list_names(store: S3Store, folder: str, after: str | None = None) -> Iterator[str]:
    """The names in a folder of a run, in their order, without folder and ending; those behind `after` only.

    `after` may be any text: `00007-` begins with the chunks of part 7.
    """
    for name, _ in list_written(store, folder, after):
        yield name


def list_written(store: S3Store, folder: str, after: str | None = None) -> Iterator[tuple[str, datetime]]:
    """As `list_names`, each with the time of its last PUT."""
    with s3_errors(f"list {folder}"):
        for page in obstore.list(store, folder, offset=None if after is None else folder + after):
            for found in page:
                yield found["path"].rpartition("/")[2].partition(".")[0], found["last_modified"]


def _read(store: S3Store, key: str, doing: str) -> bytes | None:
    with s3_errors(doing):
        try:
            return bytes(obstore.get(store, key).bytes())
        except FileNotFoundError:
            return None
