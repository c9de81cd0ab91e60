"""Ledger: from summaries, in any order, to what of a run is done; each row of the manifest counts once.

A chunk of the run is a slot of `chunk_size` rows. Mostly one summary fills it. Where a worker split the chunk, the
summaries of its halves do; where somebody did the whole chunk as well, the halves lie inside it and are left out.
"""

from collections import Counter
from collections.abc import Iterator

from config.results import ChunkPlace, ChunkSummary, FrozenManifest, Status
from producer.chunker import is_inside, keys_before, outermost, part_size

Slot = tuple[int, int]


class Ledger:
    """What is done. Slots before the first one that is not filled are forgotten, so that it stays small."""

    def __init__(self, chunk_size: int) -> None:
        self.chunks_done = 0
        self._chunk_size = chunk_size
        self._first: Slot = (0, 0)  # all before this one are filled
        self._filled: set[Slot] = set()  # filled, behind the first
        self._open: dict[Slot, dict[ChunkPlace, ChunkSummary]] = {}
        self._counts: Counter[Status] = Counter()

    @property
    def offset(self) -> str:
        """The text behind which the names lie of all chunks that may still be unknown."""
        return f"{self._first[0]:05d}-{self._first[1]:07d}-"

    @property
    def counts(self) -> Counter[Status]:
        """Images that are done, by how they ended."""
        counts = self._counts.copy()
        for done in self._open.values():
            for place in outermost(done):
                counts.update(done[place].counts)
        return counts

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

    def unfilled(self, frozen: FrozenManifest) -> Iterator[tuple[ChunkPlace, set[ChunkPlace]]]:
        """Chunks of the run that are not done as a whole, each with the places inside it that are."""
        part, start = self._first
        while part < frozen.parts:
            slot = (part, start)
            size = self._slot_size(slot, frozen)
            if size > 0 and slot not in self._filled:
                yield ChunkPlace(part, start, size), set(self._open.get(slot, ()))
            part, start = self._next_slot(slot) if size > 0 else (part + 1, 0)

    def add(self, summary: ChunkSummary) -> None:
        """Take a summary that is new."""
        place = ChunkPlace.parse(summary.chunk_id)
        self._open.setdefault(self._slot(place), {})[place] = summary

    def settle(self, frozen: FrozenManifest | None) -> None:
        """Close the slots that are filled; the last one's size is known when the manifest is frozen."""
        for slot, done in list(self._open.items()):
            places = outermost(done)
            if sum(place.count for place in places) == self._slot_size(slot, frozen):
                for place in places:
                    self._counts.update(done[place].counts)
                self.chunks_done += 1
                self._filled.add(slot)
                del self._open[slot]
        while self._first in self._filled:
            self._filled.remove(self._first)
            self._first = self._next_slot(self._first)

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
