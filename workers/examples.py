"""Examples: from what each image of a training is for to batches of stored features, or of pixels, for an epoch.

Stored features are read part by part, a part ahead, so that memory is bounded whatever the number of images: at most
SHUFFLE_BYTES of them are shuffled together, twice that while they are gathered, and two parts are on the way.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from config.models import ModelSpec
from config.trained import Use
from config.training import Augmentation, Epoch
from workers.ahead import Budget, map_ahead
from workers.cnn.augment import augment
from workers.cnn.finetune import Batch
from workers.decode import DecodeLimits, decode_images
from workers.fetch import FetchLimits, OpenKey, fetch_images
from workers.sample import Sample
from workers.trainset import TrainSet

#: Bytes of features that are shuffled together: 16,000 images of 2,048 numbers, or 400 of an 8 × 8 × 1,280 layer.
SHUFFLE_BYTES = 128 * 2**20


class Examples(Protocol):
    """What an epoch sees, in batches; the same seed gives the same batches."""

    def train(self, epoch: Epoch) -> Iterator[Batch]:
        """The images that are trained on, each once, in an order that the epoch and the seed say."""

    def validate(self) -> Iterator[Batch]:
        """The images that validate."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How batches are drawn."""

    seed: int
    batch_size: int


#: Reads the features of a chunk's rows: those of the rows that have them, and which rows those are.
ReadFeatures = Callable[[str], tuple[NDArray[Any], NDArray[np.bool_]]]


class StoredExamples:
    """Features that a bulk run has stored; they stay in memory from epoch to epoch where they all fit."""

    def __init__(self, images: TrainSet, read: ReadFeatures, drawing: Drawing, limit: int = SHUFFLE_BYTES) -> None:
        self._read, self._drawing, self._limit = read, drawing, limit
        self._parts = list(_parts(images))
        self._kept: dict[Use, list[Batch]] | None = None

    def train(self, epoch: Epoch) -> Iterator[Batch]:
        random = np.random.default_rng([self._drawing.seed, *epoch])
        return self._batches(Use.TRAIN, random)

    def validate(self) -> Iterator[Batch]:
        return self._batches(Use.VALIDATE, None)

    def _batches(self, use: Use, random: np.random.Generator | None) -> Iterator[Batch]:
        """Full batches of each window; what is left of one goes into the next."""
        size, rest = self._drawing.batch_size, None
        for window in self._windows(use, random):
            examples, classes = window if rest is None else _joined([rest, window])
            order = random.permutation(len(classes)) if random else np.arange(len(classes))
            full = len(order) - len(order) % size
            for first in range(0, full, size):
                taken = order[first : first + size]
                yield examples[taken], classes[taken]
            rest = examples[order[full:]], classes[order[full:]]
        if rest is not None and len(rest[1]):
            yield rest

    def _windows(self, use: Use, random: np.random.Generator | None) -> Iterator[Batch]:
        """As much as may be shuffled together, one after the other; the parts' order is drawn, too."""
        if self._kept is None:
            self._kept = self._keep()
        if self._kept:
            yield _joined(self._kept[use])
            return
        parts = [self._parts[place] for place in random.permutation(len(self._parts))] if random else self._parts
        gathered: list[Batch] = []
        for found in self._load(parts):
            gathered.append(found[use])
            if sum(examples.nbytes for examples, _ in gathered) >= self._limit:
                yield _joined(gathered)
                gathered = []
        if gathered:
            yield _joined(gathered)

    def _keep(self) -> dict[Use, list[Batch]]:
        """All features, where they fit; nothing where they do not."""
        kept: dict[Use, list[Batch]] = {Use.TRAIN: [], Use.VALIDATE: []}
        size = 0
        for found in self._load(self._parts):
            size += sum(examples.nbytes for examples, _ in found.values())
            if size > self._limit:
                return {}
            for use, batch in found.items():
                kept[use].append(batch)
        return {use: [_joined(batches)] for use, batches in kept.items() if batches}

    def _load(self, parts: Sequence["_Part"]) -> Iterator[dict[Use, Batch]]:
        found = map_ahead(self._load_part, parts, threads=1, ahead=2)
        return (batches for batches in found if batches)

    def _load_part(self, part: "_Part") -> dict[Use, Batch]:
        """Nothing where no image of the part has features: their shape may not be known then."""
        features, present = self._read(part.chunk_id)
        numbers, uses = part.numbers[present], part.uses[present]
        if not present.any():
            return {}
        return {use: (features[uses == use.value], numbers[uses == use.value]) for use in (Use.TRAIN, Use.VALIDATE)}


@dataclass(frozen=True, slots=True)
class Reading:
    """How images are read again for each epoch."""

    open_key: OpenKey
    spec: ModelSpec
    fetching: FetchLimits
    decoding: DecodeLimits
    fetched_bytes: int


class PictureExamples:
    """Images that are read and decoded again in each epoch, those that are trained on changed at random."""

    def __init__(self, images: TrainSet, reading: Reading, drawing: Drawing, kinds: Sequence[Augmentation]) -> None:
        self._reading, self._drawing, self._kinds = reading, drawing, kinds
        self._keys = images.table["key"].to_pylist()
        self._numbers = images.numbers()
        self._uses = np.array(images.table["use"].to_pylist())

    def train(self, epoch: Epoch) -> Iterator[Batch]:
        order = np.random.default_rng([self._drawing.seed, *epoch]).permutation(np.flatnonzero(self._uses == Use.TRAIN))

        def change(sample: Sample) -> Sample:
            if sample.pixels is not None:
                seed = (self._drawing.seed, *epoch, zlib.crc32(sample.key.encode("utf-8", "surrogatepass")))
                sample.pixels = augment(sample.pixels, self._kinds, seed)
            return sample

        threads = self._reading.decoding.threads
        return self._batches(order, map_ahead(change, self._samples(order), threads, 2 * threads))

    def validate(self) -> Iterator[Batch]:
        order = np.flatnonzero(self._uses == Use.VALIDATE)
        return self._batches(order, self._samples(order))

    def _samples(self, order: NDArray[np.intp]) -> Iterator[Sample]:
        reading = self._reading
        bodies = Budget(reading.fetched_bytes)
        fetched = fetch_images(reading.open_key, [self._keys[row] for row in order], reading.fetching, bodies)
        return decode_images(fetched, reading.spec, reading.decoding, bodies)

    def _batches(self, order: NDArray[np.intp], samples: Iterator[Sample]) -> Iterator[Batch]:
        """An image that could be read when the run began and now cannot is passed over."""
        pixels, numbers = [], []
        for sample in samples:
            if sample.pixels is None:
                continue
            pixels.append(sample.pixels)
            numbers.append(self._numbers[order[sample.index]])
            if len(pixels) == self._drawing.batch_size:
                yield np.stack(pixels), np.array(numbers)
                pixels, numbers = [], []
        if pixels:
            yield np.stack(pixels), np.array(numbers)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one chunk: the number of each one's class, and what it is for."""

    chunk_id: str
    numbers: NDArray[np.int64]
    uses: NDArray[np.str_]


def _parts(images: TrainSet) -> Iterator[_Part]:
    numbers, uses = images.numbers(), np.array(images.table["use"].to_pylist())
    first = 0
    for chunk_id, rows in groupby(images.table["chunk_id"].to_pylist()):
        last = first + sum(1 for _ in rows)
        yield _Part(chunk_id, numbers[first:last], uses[first:last])
        first = last


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return np.concatenate([examples for examples, _ in batches]), np.concatenate([classes for _, classes in batches])
