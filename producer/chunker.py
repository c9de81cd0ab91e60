"""Chunker: from the keys of one frozen manifest part to Chunks, each with its place in the manifest."""

from collections.abc import Collection, Iterator, Sequence
from math import ceil

from config.messages import Chunk, Job
from config.results import ChunkPlace, is_inside

#: Chunks of the first manifest part. Small, so that workers begin seconds after a submit of ten million keys.
FIRST_PART_CHUNKS = 64

#: Chunks of every further part: 262,144 keys at a chunk size of 256, one object of a few megabytes.
PART_CHUNKS = 1_024

#: A small run is cut into so many chunks that several workers share it and its progress moves.
SMALL_RUN_CHUNKS = 16

#: Images below which a chunk is not worth its own message, Parquet part and summary.
SMALLEST_CHUNK = 16


def part_size(part: int, chunk_size: int) -> int:
    """Keys of a manifest part; only the last part of a run has fewer, so places follow from numbers alone."""
    return chunk_size * (FIRST_PART_CHUNKS if part == 0 else PART_CHUNKS)


def choose_chunk_size(keys: int, largest: int) -> int:
    """The chunk size of a run whose whole list (`keys` long) fits into the first part."""
    return min(largest, max(SMALLEST_CHUNK, ceil(keys / SMALL_RUN_CHUNKS)))


def keys_before(part: int, chunk_size: int) -> int:
    """Keys of all parts before this one."""
    return 0 if part == 0 else chunk_size * (FIRST_PART_CHUNKS + (part - 1) * PART_CHUNKS)


def count_chunks(keys: int, parts: int, chunk_size: int) -> int:
    """Chunks of a frozen manifest: all parts but the last are full."""
    before = keys_before(max(0, parts - 1), chunk_size)
    return before // chunk_size + ceil((keys - before) / chunk_size)


def remaining(place: ChunkPlace, settled: Collection[ChunkPlace]) -> Iterator[ChunkPlace]:
    """What is left of a chunk: itself, nothing, or those of its halves that are not settled after a split."""
    if place in settled:
        return
    if place.count == 1 or not any(is_inside(one, place) for one in settled):
        yield place
        return
    middle = place.count // 2  # as Chunk.halves has it
    yield from remaining(ChunkPlace(place.part, place.start, middle), settled)
    yield from remaining(ChunkPlace(place.part, place.start + middle, place.count - middle), settled)


def cut(chunk: Chunk, place: ChunkPlace) -> Chunk:
    """The part of a chunk at a place inside it."""
    return chunk.cut(place.start, place.count)


def pack_chunks(job: Job, bucket: str, part: int, keys: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    """The chunks of one manifest part, in its order; none crosses into another part."""
    for start in range(0, len(keys), chunk_size):
        yield Chunk(job=job, bucket=bucket, part=part, start=start, keys=tuple(keys[start : start + chunk_size]))
