"""Fate: from an error, and how many came before it, to what becomes of the chunk, and sometimes of its run."""

import logging
import random
from collections import Counter
from dataclasses import dataclass

from config.errors import PixelherdError
from config.messages import Chunk
from workers.errors import BucketUnavailable, TransientError
from workers.pipeline import give_up, stop_run, worker_name
from workers.workbench import Workbench

logger = logging.getLogger(__name__)

#: Seconds before the second try; doubled for each further one, with half of it at random so that a herd spreads.
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Again:
    """The chunk is to be sent again, after a while, as one that was tried so often."""

    after_s: float
    retries: int


class Fates:
    """What follows from the errors that one worker process meets."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        #: Tries in a row, by run, that failed for a reason that does not lie in one chunk.
        self._in_a_row: Counter[str] = Counter()

    def went_well(self, chunk: Chunk) -> None:
        """The run has a future."""
        self._in_a_row.pop(chunk.job.run_id, None)

    def decide(self, chunk: Chunk, error: PixelherdError | MemoryError, tries: int) -> Again | None:
        """When the chunk is to be tried again; None where it was given up, which S3 then says.

        As many tries in a row as one chunk may have, all of them in vain for a reason that the next chunk will meet
        too, stop the run: a vanished bucket must not cost ten thousand chunks six tries each.
        """
        passing = isinstance(error, TransientError | MemoryError)
        text, allowed = str(error) or type(error).__name__, self._bench.settings.chunk_retries
        if isinstance(error, BucketUnavailable) or not passing:
            self._in_a_row[chunk.job.run_id] += 1
        in_a_row = self._in_a_row[chunk.job.run_id]
        failed = max(tries, in_a_row)
        logger.warning("chunk=%s try=%d in_a_row=%d error=%r", chunk.chunk_id, tries, in_a_row, text)
        if passing and failed <= allowed:
            return Again(backoff_s(failed), tries)
        try:
            give_up(chunk, self._bench, error, tries)
            if in_a_row > allowed:
                reason = f"{in_a_row} tries in a row failed in {worker_name()}, the last one so: {text}"
                stop_run(chunk, self._bench, reason)
        except BucketUnavailable as gone:  # and the run with it: nobody is left to be told
            logger.error("chunk=%s dropped=yes error=%r", chunk.chunk_id, str(gone))
        except TransientError as unwritten:  # a chunk that was given up in silence would be lost
            logger.warning("chunk=%s not_given_up=%r", chunk.chunk_id, str(unwritten))
            return Again(backoff_s(allowed + 1), tries - 1)
        return None


def backoff_s(tries: int) -> float:
    """Seconds to wait after so many tries."""
    whole: float = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (tries - 1))
    return whole / 2 + random.uniform(0, whole / 2)
