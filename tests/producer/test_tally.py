"""Counts and speeds add up over summaries, whatever their order and however a chunk was done."""

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from config.results import ChunkSummary, FrozenManifest, Status, Tally
from producer.ledger import Ledger
from producer.speed import WarmSpeed

BEGAN = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)


def summary(chunk_id: str, ended_s: float = 1.0, worker: str = "a:1", **tally: int) -> ChunkSummary:
    images = int(chunk_id.split("-")[2])
    return ChunkSummary(
        chunk_id=chunk_id,
        counts={Status.OK: images},
        tally=tally,
        seconds={},
        size_bytes=0,
        part_bytes=0,
        worker=worker,
        started_at=BEGAN,
        ended_at=BEGAN + timedelta(seconds=ended_s),
    )


def test_labels_add_up_and_a_chunk_that_was_done_whole_and_in_halves_counts_once():
    done = [
        summary("00000-0000000-0016-00000000", ranked=16, top1=10, top5=15, unknown=0, failed=0),
        summary("00000-0000000-0008-00000000", ranked=8, top1=5, top5=7),
        summary("00000-0000016-0008-00000000", ranked=7, top1=6, top5=7, unknown=1),
        summary("00000-0000024-0008-00000000", ranked=6, top1=1, top5=2, failed=2),
    ]
    frozen = FrozenManifest(parts=1, keys=32, size_bytes=0, frozen_at=BEGAN)
    for order in permutations(done):
        ledger = Ledger(16)
        for one in order:
            ledger.add(one)
        for _ in range(2):
            assert ledger.tally == {"ranked": 29, "top1": 17, "top5": 24, "unknown": 1, "failed": 2}
            assert (ledger.counts, ledger.counts.total()) == ({Status.OK: 32}, 32)
            ledger.settle(frozen)


def test_a_summary_of_an_earlier_version_has_no_tally():
    old = json.loads(summary("00000-0000000-0016-00000000").to_json())
    del old["tally"]
    assert ChunkSummary.from_json(json.dumps(old).encode()).tally == {}
    new = summary("00000-0000000-0016-00000000", ranked=3)
    assert ChunkSummary.from_json(new.to_json()).tally == {Tally.RANKED: 3}


def test_the_first_chunk_of_each_process_is_not_its_speed():
    chunks = [
        summary("00000-0000000-0016-00000000", ended_s=40),  # loaded its network for 38 s
        summary("00000-0000016-0016-00000000", ended_s=42),
        summary("00000-0000032-0016-00000000", ended_s=44),
        summary("00000-0000048-0016-00000000", ended_s=41, worker="b:1"),
        summary("00000-0000064-0016-00000000", ended_s=43, worker="b:1"),
        summary("00000-0000080-0016-00000000", ended_s=50, worker="c:1"),
    ]
    for order in (chunks, chunks[::-1], chunks[3:] + chunks[:3]):
        speed = WarmSpeed()
        for one in order:
            speed.add(one)
        assert speed.images_per_s == pytest.approx(32 / 4 + 16 / 2)


def test_one_chunk_tells_no_speed():
    speed = WarmSpeed()
    assert speed.images_per_s is None
    speed.add(summary("00000-0000000-0016-00000000"))
    assert speed.images_per_s is None
