"""Reconcile: from a run that somebody watches to a feed of the chunks that nobody holds, so that a run always ends.

A worker that dies between Redis's answer and its own note of it takes a message out of the world (measured: 5 of 5
from a frozen idle worker), and a Redis that is wiped takes all. What is neither done nor given up in S3, and neither
queued nor delivered nor in a worker's hand, in looks that span SURE_S, is sent again. Where that was wrong, the
second copy of a chunk costs a worker one HEAD.
"""

import logging
import platform
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from threading import Event

import redis

from config.messages import Chunk
from config.results import ChunkFailure, ChunkPlace
from config.steps import TRAINING_PLACE, TrainingStep
from config.training import all_epochs
from producer.chunker import cut, remaining
from producer.feed import Feed
from producer.held import Slot, fed_up_to, held_places, make_asker
from producer.records import write_failure
from producer.run import END, OpenRun, chunks_of, start_feed, steps_of
from producer.status import Phase, RunPoller
from producer.trained import write_training_failure

logger = logging.getLogger(__name__)

#: Seconds between two looks, and seconds for which nobody must have held a chunk: a message that was just popped
#: is nowhere for moments. Together with the time of a look they stay under 60 s.
LOOK_INTERVAL_S = 10.0
SURE_S = 20.0

#: Looks at a run that is not listed to its end, and that nobody feeds, before a person is told.
UNFED_LOOKS = 3

#: Times that a chunk is sent again before it counts as given up: whatever takes it away, such as workers of
#: another version who refuse it, will go on to do so.
MOST_SENDS = 10

#: One watcher reconciles a run; another one takes over so long after the first was last seen.
LOCK_PREFIX = "pixelherd:reconciler:"
LOCK_S = 30


class Reconciler:
    """Looks again and again, as often as it is asked, but every LOOK_INTERVAL_S at most."""

    def __init__(self, run: OpenRun, poller: RunPoller | None = None) -> None:
        """Whoever looks at the run anyway, in the same thread, shares the poller."""
        #: Where the run's chunks are sent to; whoever resumes the run may say otherwise.
        self.queue = run.record.queue or run.settings.queue
        self._run = run
        self._run_id = run.address.run_id
        self._poller = poller or RunPoller(run)
        self._redis = make_asker(run.settings)
        self._token = secrets.token_hex(8)
        self._looked_at = time.monotonic()
        self._orphans: dict[ChunkPlace, float] = {}  # since when
        self._sent: Counter[ChunkPlace] = Counter()
        self._unfed_looks = 0

    def look(self) -> Feed | None:
        """Look, if it is time to; a Feed that sends what nobody holds, where there is such a thing.

        While somebody feeds the run, here or elsewhere, it is about what he has sent. A broker that is away is asked
        again next time.
        """
        if time.monotonic() - self._looked_at < LOOK_INTERVAL_S:
            return None
        try:
            lost = self._lost()
        except redis.RedisError as error:
            logger.info("run=%s reconcile=skipped error=%s", self._run_id, type(error).__name__)
            lost = set()
        self._looked_at = time.monotonic()
        return self._send(lost) if lost else None

    def close(self) -> None:
        """Let another watcher go on."""
        with suppress(redis.RedisError):
            if self._redis.get(LOCK_PREFIX + self._run_id) == self._token.encode():
                self._redis.delete(LOCK_PREFIX + self._run_id)
        self._redis.close()

    def _lost(self) -> set[ChunkPlace]:
        """Places that nobody has held in all looks of the last SURE_S."""
        if not self._is_alone():
            self._orphans.clear()
            return set()
        fed = fed_up_to(self._redis, self._run_id)
        # Who holds what, before what is done: what a worker ends in between is held or done, never neither.
        held = held_places(self._redis, self._run.settings, self._run_id, {self.queue})
        phase, now = self._poller.poll().phase, time.monotonic()
        if phase is Phase.LISTING and fed is None:
            self._unfed_looks += 1
            if self._unfed_looks == UNFED_LOOKS:
                self._run.on_event(f"nobody lists this run any more; `pixelherd resume {self._run_id}` goes on")
        going_on = phase is Phase.RUNNING or (phase is Phase.LISTING and fed is not None)
        unheld = set(self._unheld(held, fed)) if going_on else set()
        if phase is Phase.TRAINING and fed is None:
            unheld = {TRAINING_PLACE} - held
        self._orphans = {place: self._orphans.get(place, now) for place in unheld}
        return {place for place, since in self._orphans.items() if now - since >= SURE_S}

    def _unheld(self, held: Collection[ChunkPlace], before: Slot | None) -> Iterator[ChunkPlace]:
        size = self._run.record.chunk_size
        by_chunk: defaultdict[tuple[int, int], set[ChunkPlace]] = defaultdict(set)
        for place in held:
            by_chunk[place.part, place.start - place.start % size].add(place)
        for whole, settled in self._poller.unsettled(before):
            yield from remaining(whole, settled | by_chunk[whole.part, whole.start])

    def _is_alone(self) -> bool:
        """Whether this is the run's one reconciler, for the next LOCK_S at least."""
        key = LOCK_PREFIX + self._run_id
        if self._redis.set(key, self._token, nx=True, ex=LOCK_S):
            return True
        return self._redis.get(key) == self._token.encode() and bool(self._redis.expire(key, LOCK_S))

    def _send(self, lost: set[ChunkPlace]) -> Feed:
        self._orphans.clear()
        self._sent.update(lost)
        count = len(lost)
        logger.warning("run=%s reconcile=sent chunks=%d", self._run_id, count)
        what = "an epoch" if TRAINING_PLACE in lost else f"{count} chunk{'s' if count > 1 else ''}"
        self._run.on_event(f"{what} had got lost on the way; enqueued again")
        parts = sorted({place.part for place in lost})
        return start_feed(self._run, iter(parts), partial(self._again, lost), self.queue, Event())

    def _again(self, lost: Collection[ChunkPlace], part: int) -> Iterator[Chunk | TrainingStep]:
        """The lost chunks of a part, but for those that were sent too often; they are given up."""
        if part == END:
            yield from self._step_again()
            return
        for chunk in lost_chunks(self._run, part, lost):
            sent = self._sent[ChunkPlace.parse(chunk.chunk_id)]
            if sent <= MOST_SENDS:
                yield chunk
            else:
                write_failure(self._run.store, self._run.address, _lost_for_good(chunk, sent))

    def _step_again(self) -> Iterator[TrainingStep]:
        """The lost epoch, unless it was sent too often: each one that is done since counts for it."""
        sent, run = self._sent[TRAINING_PLACE], self._run
        for step in steps_of(run):
            if sent <= MOST_SENDS + len(all_epochs(step.training)):
                yield step
            else:
                error = f"enqueued {sent} times, and each time it was gone; do workers refuse it?"
                write_training_failure(run.store, run.address, step, error)


def lost_chunks(run: OpenRun, part: int, lost: Collection[ChunkPlace]) -> Iterator[Chunk]:
    """The chunks of a part, or halves of them, at the lost places."""
    size = run.record.chunk_size
    by_start: defaultdict[int, list[ChunkPlace]] = defaultdict(list)
    for place in lost:
        if place.part == part:
            by_start[place.start - place.start % size].append(place)
    for whole in chunks_of(run, part):
        for place in by_start.get(whole.start, ()):
            yield cut(whole, place)


def _lost_for_good(chunk: Chunk, tries: int) -> ChunkFailure:
    return ChunkFailure(
        chunk_id=chunk.chunk_id,
        error=f"enqueued {tries} times, and each time it was gone without a result; do workers refuse it?",
        tries=tries,
        worker=platform.node(),
        failed_at=datetime.now(UTC),
    )
