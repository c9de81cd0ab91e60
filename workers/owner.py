"""Owner: from a job to whether the folder that it names in S3 is its own, or why it is not."""

from collections.abc import Callable

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from config.errors import ContractError
from config.messages import Job
from config.results import RunAddress, RunRecord
from workers.errors import TransientError

#: Jobs that are remembered; a worker meets a few at a time, and a sender that makes up thousands costs no memory.
REMEMBERED_JOBS = 200


class Owners:
    """Looks once for each job, at the price of a GET for each folder of its path, and remembers what it saw."""

    def __init__(self, open_store: Callable[[str], S3Store]) -> None:
        self._open_store = open_store
        self._known: dict[str, str | None] = {}

    def why_not(self, job: Job) -> str | None:
        """Why no row of this job may be written where it says; None where it may. Raises TransientError.

        A run's job.json stands before its first message, and whoever sends plain Celery messages writes none.
        """
        asked = job.model_dump_json()
        if asked not in self._known:
            if len(self._known) >= REMEMBERED_JOBS:
                self._known.clear()
            self._known[asked] = self._look(job)
        return self._known[asked]

    def _look(self, job: Job) -> str | None:
        run = RunAddress.of(job.output, job.run_id)
        store = self._open_store(run.bucket)
        try:
            own = self._read(store, run.job_key)
            if own is not None and RunRecord.from_json(own).job != job:
                return f"{run} is another run's folder: its job.json asks for something else"
        except ContractError as error:
            return f"{run} is not this run's folder: {error}"
        for key in run.outer_job_keys:
            found = self._read(store, key)
            if found is not None and RunRecord.is_one(found):
                return f"{run} lies inside the folder of another run, s3://{run.bucket}/{key}"
        return None

    def _read(self, store: S3Store, key: str) -> bytes | None:
        try:
            return bytes(obstore.get(store, key).bytes())
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise TransientError(f"cannot read {key}: {str(error).partition(chr(10))[0]}") from error
