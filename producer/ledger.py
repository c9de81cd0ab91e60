"""Ledger: from summaries, in any order, to what of a run is done; each row of the manifest counts once.

A chunk of the run is a slot of `chunk_size` rows. Mostly one summary fills it. Where a worker split the chunk, the
summaries of its halves do; where somebody did the whole chunk as well, the halves lie inside it and are left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

from config.results import ChunkPlace, ChunkSummary, FrozenManifest, Status, Tally, is_inside, outermost
from producer.chunker import keys_before, part_size

Slot = tuple[int, int]

#: How many images ended in each way, and how many labels were ranked well: all that adds up over chunks.
Counts = Mapping[Status | Tally, int]


class Ledger:
    """What is done. Slots before the first one that is not filled are forgotten, so that it stays small."""

    def __init__(self, chunk_size: int) -> None:
        self.chunks_done = 0
        self._chunk_size = chunk_size
        self._first: Slot = (0, 0)  # all before this one are filled
        self._filled: set[Slot] = set()  # filled, behind the first
        self._open: dict[Slot, dict[ChunkPlace, Counts]] = {}
        self._rows = 0  # of the slots that are filled
        self._counts: Counter[Status | Tally] = Counter()

    @property
    def offset(self) -> str:
        """The text behind which the names lie of all chunks that may still be unknown."""
        return f"{self._first[0]:05d}-{self._first[1]:07d}-"

    @property
    def counts(self) -> Counter[Status]:
        """Images that are done, by how they ended."""
        return Counter({status: count for status, count in self._counted().items() if isinstance(status, Status)})

    @property
    def tally(self) -> Counter[Tally]:
        """Labels of images that are done, by how well they were ranked."""
        return Counter({tally: count for tally, count in self._counted().items() if isinstance(tally, Tally)})

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return self._rows + sum(place.count for done in self._open.values() for place in outermost(done))

    def knows(self, place: ChunkPlace) -> bool:
        """Whether a summary at this place would say nothing new."""
        return self._is_filled(self._slot(place)) or place in self._open.get(self._slot(place), ())

    def done_in(self, place: ChunkPlace) -> int:
        """Rows of a place that are done."""
        if self._is_filled(self._slot(place)):
            return place.count
        done = outermost(self._open.get(self._slot(place), ()))
        if any(is_inside(place, other) for other in done):
            return place.count
        return sum(other.count for other in done if is_inside(other, place))

    def unfilled(
        self, frozen: FrozenManifest | None, before: Slot | None
    ) -> Iterator[tuple[ChunkPlace, set[ChunkPlace]]]:
        """Chunks of the run that are not done as a whole, each with the places inside it that are.

        Those before a slot only, where one is given; while keys are being listed, it must lie among the listed.
        """
        part, start = self._first
        while (frozen is None or part < frozen.parts) and (before is None or (part, start) < before):
            slot = (part, start)
            size = self._slot_size(slot, frozen)
            if size > 0 and slot not in self._filled:
                yield ChunkPlace(part, start, size), set(self._open.get(slot, ()))
            part, start = self._next_slot(slot) if size > 0 else (part + 1, 0)

    def add(self, summary: ChunkSummary) -> None:
        """Take a summary that is new."""
        counts = chain[tuple[Status | Tally, int]](summary.counts.items(), summary.tally.items())
        self.fill(ChunkPlace.parse(summary.chunk_id), dict(counts))

    def fill(self, place: ChunkPlace, counts: Counts) -> None:
        """Take a place that is new; whoever only asks for rows need not know how its images ended."""
        self._open.setdefault(self._slot(place), {})[place] = counts

    def settle(self, frozen: FrozenManifest | None) -> None:
        """Close the slots that are filled; the last one's size is known when the manifest is frozen."""
        for slot, done in list(self._open.items()):
            places = outermost(done)
            if sum(place.count for place in places) == self._slot_size(slot, frozen):
                for place in places:
                    self._counts.update(done[place])
                    self._rows += place.count
                self.chunks_done += 1
                self._filled.add(slot)
                del self._open[slot]
        while self._first in self._filled:
            self._filled.remove(self._first)
            self._first = self._next_slot(self._first)

    def _counted(self) -> Counter[Status | Tally]:
        counts = self._counts.copy()
        for done in self._open.values():
            for place in outermost(done):
                counts.update(done[place])
        return counts

    def _slot(self, place: ChunkPlace) -> Slot:
        return place.part, place.start - place.start % self._chunk_size

    def _next_slot(self, slot: Slot) -> Slot:
        part, start = slot[0], slot[1] + self._chunk_size
        return (part, start) if start < part_size(part, self._chunk_size) else (part + 1, 0)

    def _is_filled(self, slot: Slot) -> bool:
        return slot < self._first or slot in self._filled

    def _slot_size(self, slot: Slot, frozen: FrozenManifest | None) -> int:
        part, start = slot
        if frozen is None or part < frozen.parts - 1:
            return self._chunk_size
        return min(self._chunk_size, frozen.keys - keys_before(part, self._chunk_size) - start)
