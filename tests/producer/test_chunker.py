"""Chunks have places that follow from numbers alone."""

from math import ceil

import pytest

from config.messages import Job
from config.results import ChunkPlace, outermost
from producer.chunker import (
    FIRST_PART_CHUNKS,
    PART_CHUNKS,
    choose_chunk_size,
    count_chunks,
    keys_before,
    pack_chunks,
    part_size,
)

JOB = Job(run_id="run-1", model="efficientnet_lite0", output="s3://bucket/out")


def parts_of(keys: int, chunk_size: int) -> list[int]:
    """The sizes of the parts of a manifest."""
    sizes: list[int] = []
    while keys:
        sizes.append(min(keys, part_size(len(sizes), chunk_size)))
        keys -= sizes[-1]
    return sizes


@pytest.mark.parametrize(
    ("keys", "largest", "chosen"),
    [
        (1, 256, 16),
        (100, 256, 16),
        (256, 256, 16),
        (257, 256, 17),
        (1_600, 256, 100),
        (4_096, 256, 256),
        (16_384, 256, 256),
        (100, 8, 8),
    ],
)
def test_a_small_run_is_cut_for_several_workers(keys, largest, chosen):
    assert choose_chunk_size(keys, largest) == chosen


def test_chunks_cover_a_part_in_order_and_know_their_place():
    keys = [f"k{number}" for number in range(1_000)]
    chunks = list(pack_chunks(JOB, "bucket", 3, keys, 256))
    assert [key for chunk in chunks for key in chunk.keys] == keys
    assert [(chunk.part, chunk.start, len(chunk.keys)) for chunk in chunks] == [
        (3, 0, 256),
        (3, 256, 256),
        (3, 512, 256),
        (3, 768, 232),
    ]
    assert [ChunkPlace.parse(chunk.chunk_id) for chunk in chunks] == sorted(
        ChunkPlace(chunk.part, chunk.start, len(chunk.keys)) for chunk in chunks
    )


def test_the_same_keys_at_the_same_place_have_the_same_names():
    keys = [f"k{number}" for number in range(40)]
    first, again = ([chunk.chunk_id for chunk in pack_chunks(JOB, "b", 0, keys, 16)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    other = [chunk.chunk_id for chunk in pack_chunks(JOB, "b", 0, [*keys[:-1], "x"], 16)]
    assert other[:2] == first[:2]
    assert other[2] != first[2]


@pytest.mark.parametrize("keys", [1, 63, 64, 65, 64 + 1_024, 64 + 1_024 + 1, 64 + 3 * 1_024 - 1])
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_the_number_of_chunks_follows_from_the_frozen_manifest(keys, chunk_size):
    sizes = parts_of(keys, chunk_size)
    assert count_chunks(keys, len(sizes), chunk_size) == sum(ceil(size / chunk_size) for size in sizes)


def test_the_rows_before_a_part_follow_from_its_number():
    sizes = parts_of(3 * (FIRST_PART_CHUNKS + 3 * PART_CHUNKS), 3)
    assert [keys_before(part, 3) for part in range(len(sizes))] == [sum(sizes[:part]) for part in range(len(sizes))]


def test_a_chunk_that_was_done_whole_and_in_halves_counts_once():
    whole, first, second, quarter = (ChunkPlace(0, *place) for place in ((0, 16), (0, 8), (8, 8), (8, 4)))
    other = ChunkPlace(1, 0, 16)
    assert outermost([second, other, quarter, first, whole]) == [whole, other]
    assert outermost([quarter, second, first, other]) == [first, second, other]
    assert outermost([]) == []
