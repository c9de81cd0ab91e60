"""Resume: from what S3 holds of a run to the chunks that are missing, and no others; and cancelling a run."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain
from threading import Event

import pyarrow as pa

from config.errors import SourceError, UsageError
from config.messages import Chunk
from config.results import ChunkPlace, outermost
from config.steps import TrainingStep
from producer.chunker import cut, part_size, remaining
from producer.enqueuer import check_broker
from producer.feed import Feed
from producer.frozen import Totals, count_parts, is_same_list, read_part, take_part, totals_of
from producer.labels import parse_labels
from producer.lister import open_listing
from producer.pages import ListedKey
from producer.records import delete, list_names, read_cancellation, read_frozen, write_cancelled
from producer.run import END, OpenRun, chunks_of, freeze_end, freeze_rest, start_feed, steps_of
from producer.source import KEYS_TEXT, GlobSource, PrefixSource, parse_source
from producer.trained import forget_failure
from producer.validation import find_validation, list_validation, with_validation


def cancel_run(run: OpenRun) -> None:
    """Tell the workers to leave the run alone; what is done stays."""
    write_cancelled(run.store, run.address)


def resume_run(run: OpenRun, *, even_cancelled: bool = False) -> Feed:
    """Go on with a run: list what is not frozen yet, and enqueue exactly the chunks that have no summary.

    No result row is read. Chunks that were given up are tried again. A chunk that still waits in the queue is
    sent a second time, and costs a worker one HEAD.
    """
    check_broker(run.settings)
    ended = read_cancellation(run.store, run.address)
    if ended is not None:
        if ended.reason is None and not even_cancelled:
            raise UsageError(f"{run.address.run_id} was cancelled; say so if it shall go on after all")
        delete(run.store, run.address, run.address.cancelled_key)
    stopped = Event()
    parts = count_parts(run.store, run.address)
    rest = iter(()) if read_frozen(run.store, run.address) else _go_on_listing(run, parts, stopped)
    given_up = frozenset(list_names(run.store, run.address.failures))
    if run.record.job.training is not None:
        forget_failure(run.store, run.address)
    return start_feed(
        run, chain(range(parts), rest, [END]), partial(missing_messages, run, given_up), run.settings.queue, stopped
    )


def missing_messages(run: OpenRun, given_up: frozenset[str], part: int) -> Iterator[Chunk | TrainingStep]:
    """The chunks of a part that are missing; at the END the epoch that is."""
    yield from steps_of(run) if part == END else missing_chunks(run, given_up, part)


def missing_chunks(run: OpenRun, given_up: frozenset[str], part: int) -> Iterator[Chunk]:
    """The chunks of a part without a summary; their failures are removed before they are sent again."""
    done = done_places(run, part)
    if sum(place.count for place in outermost(done)) == part_size(part, run.record.chunk_size):
        return  # a part that is done need not be read
    by_start: defaultdict[int, set[ChunkPlace]] = defaultdict(set)
    for place in done:
        by_start[place.start - place.start % run.record.chunk_size].add(place)
    for whole in chunks_of(run, part):
        for chunk in without_done(whole, by_start[whole.start]):
            if chunk.chunk_id in given_up:
                # First, so that a failure which appears later is a new one.
                delete(run.store, run.address, run.address.failure_key(chunk.chunk_id))
            yield chunk


def without_done(chunk: Chunk, done: Collection[ChunkPlace]) -> Iterator[Chunk]:
    """What is left of a chunk: itself, nothing, or those of its halves that a worker has not done after a split."""
    for place in remaining(ChunkPlace(chunk.part, chunk.start, len(chunk.keys)), done):
        yield cut(chunk, place)


def done_places(run: OpenRun, part: int) -> set[ChunkPlace]:
    """The places in a part that have a summary."""
    done = set()
    for chunk_id in list_names(run.store, run.address.summaries, after=f"{part:05d}-"):
        place = ChunkPlace.parse(chunk_id)
        if place.part != part:
            break
        done.add(place)
    return done


def _go_on_listing(run: OpenRun, parts: int, stopped: Event) -> Iterator[int]:
    """Freeze what is behind the last frozen part."""
    frozen = read_part(run.store, run.address, parts - 1) if parts else None
    if frozen is None:
        return freeze_rest(run, _list_behind(run, None, 0), 0, Totals(), stopped)
    totals = totals_of(frozen)
    if frozen.num_rows < part_size(parts - 1, run.record.chunk_size):
        freeze_end(run, parts, totals)  # a part that is not full is the last one: only the mark was missing
        return iter(())
    return freeze_rest(run, _list_behind(run, frozen, parts), parts, totals, stopped)


def _list_behind(run: OpenRun, last: pa.Table | None, parts: int) -> Iterator[ListedKey]:
    """The keys behind those of `parts` frozen parts, of which `last` is the last one."""
    record = run.record
    if record.source == KEYS_TEXT:
        raise UsageError(f"{run.address.run_id} was given key by key and not all were stored; submit those keys again")
    source = parse_source(record.source, record.bucket)
    labels = parse_labels(record.labels, source) if record.labels else None
    validation = find_validation(record.job.training, source, record.labels)
    output = record.job.output
    behind = None if last is None else last["key"][-1].as_py()
    if validation is not None and behind is not None and validation.holds(behind):
        return list_validation(validation, run.settings, output, behind)
    if behind is not None and isinstance(source, PrefixSource | GlobSource):
        listing = open_listing(source, run.settings, output, behind, labels)
        return with_validation(listing, validation, run.settings, output).keys
    listing = open_listing(source, run.settings, output, labels=labels)
    keys = with_validation(listing, validation, run.settings, output).keys
    return keys if last is None else _skip_parts(run, keys, last, parts)


def _skip_parts(run: OpenRun, keys: Iterator[ListedKey], last: pa.Table, parts: int) -> Iterator[ListedKey]:
    """A file cannot be entered behind a key: read it again up to there, and see that it is still the same."""
    for part in range(parts):
        again = take_part(keys, part_size(part, run.record.chunk_size))
    if not is_same_list(again, last):
        raise SourceError(f"{run.record.source} has changed since {run.address.run_id} began; start a new run")
    yield from keys
