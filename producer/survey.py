"""Survey: from the Parquet parts of a run, read once and column by column, to all that a report counts in rows.

Memory is bounded whatever the run's size: some parts are in flight, and what is kept grows with classes, not rows.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from config.messages import Mode
from config.results import ChunkPlace, Status, outermost
from producer.manifest import StoredFile
from producer.records import list_names
from producer.run import OpenRun
from producer.translate import s3_errors

#: Parts that are fetched at once, and so many again that wait to be counted.
READ_THREADS = 16

#: Parts that are counted at once: what each call costs is shared, 0.6 ms for a part of 256 rows against 1.6.
PARTS_AT_ONCE = 32

#: Columns that are counted; a run's rows lack some of them.
COLUMNS = ("key", "status", "error", "class_id", "class_name", "score", "label", "rank")

#: Images with an error that are named, of each kind.
EXAMPLES = 3

#: Different labels without a class that are told apart; a rule that fits nothing would make one of each key.
UNKNOWN_LABELS = 1_000

#: Bins of confidence, as many as Guo et al. (2017) take.
CONFIDENCE_BINS = 15

Found = TypeVar("Found")
Given = TypeVar("Given")


@dataclass(slots=True)
class Survey:
    """What the rows of a run hold, counted. `pairs` are labels with the best class, of images with a rank.

    `binned` is bins × 3: images whose best class has a score in that bin, those where it is the label, and the sum
    of the scores. `outside` are images whose score is no probability.
    """

    rows: int = 0
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    names: dict[str, str] = field(default_factory=dict)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    top5: Counter[str] = field(default_factory=Counter)
    unlabelled: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    binned: NDArray[np.float64] = field(default_factory=lambda: np.zeros((CONFIDENCE_BINS, 3)))
    outside: int = 0

    def add(self, rows: pa.Table) -> None:
        """Count the rows of one part."""
        self.rows += rows.num_rows
        is_ok = pc.equal(rows["status"], Status.OK.value)
        self._add_errors(rows.filter(pc.invert(is_ok)))
        good = rows.filter(is_ok)
        if "class_id" in good.column_names:
            self._add_classes(good)
        if "rank" in good.column_names:
            self._add_labels(good)

    def _add_errors(self, rows: pa.Table) -> None:
        self.errors.update(rows["status"].to_pylist())
        for status, key, error in zip(*(rows[name].to_pylist() for name in ("status", "key", "error")), strict=True):
            examples = self.examples.setdefault(status, [])
            if len(examples) < EXAMPLES:
                examples.append((key, error or ""))
        if "label" in rows.column_names:
            self.failed.update(status for status, label in _pairs(rows, "status", "label") if label is not None)

    def _add_classes(self, rows: pa.Table) -> None:
        found = Counter(_pairs(rows, "class_id", "class_name"))
        for (class_id, name), count in found.items():
            # A worker of another library may leave one of the two out.
            self.classes[class_id or name or ""] += count
            self.names[class_id or name or ""] = name or class_id or ""

    def _add_labels(self, rows: pa.Table) -> None:
        is_ranked = pc.is_valid(rows["rank"])
        for label, count in Counter(rows.filter(pc.invert(is_ranked))["label"].to_pylist()).items():
            if label is None:
                self.unlabelled[Status.OK] += count
            else:
                known = label in self.unknown or len(self.unknown) < UNKNOWN_LABELS
                self.unknown[label if known else ""] += count
        ranked = rows.filter(is_ranked)
        self.pairs.update(_pairs(ranked, "label", "class_id"))
        self.top5.update(ranked.filter(pc.less_equal(ranked["rank"], 5))["label"].to_pylist())
        self._add_scores(ranked["score"].to_numpy(), ranked["rank"].to_numpy() == 1)

    def _add_scores(self, scores: NDArray[np.float32], correct: NDArray[np.bool_]) -> None:
        is_share = (scores >= 0) & (scores <= 1.0001)  # what rounding leaves of a softmax
        self.outside += int((~is_share).sum())
        scores, correct = scores[is_share].astype(np.float64), correct[is_share]
        # Bins are open below, as in the paper: 1.0 belongs to the last one.
        bins = np.clip(np.ceil(scores * CONFIDENCE_BINS).astype(int) - 1, 0, CONFIDENCE_BINS - 1)
        for column, weights in enumerate((np.ones_like(scores), correct, scores)):
            self.binned[:, column] += np.bincount(bins, weights, CONFIDENCE_BINS)


def survey_rows(run: OpenRun, most_parts: int | None = None) -> Survey:
    """Count the rows of a run that are written; those of every k-th part where there are more than `most_parts`."""
    step = 1
    if most_parts is not None:
        step = max(1, -(-sum(1 for _ in done_names(run)) // most_parts))
    names = (name for number, name in enumerate(done_names(run)) if number % step == 0)
    found = Survey()
    with ThreadPoolExecutor(READ_THREADS, "survey") as pool:
        parts = in_order_ahead(pool, lambda name: _read_columns(run, name), names)
        while some := list(islice(parts, PARTS_AT_ONCE)):
            found.add(pa.concat_tables(some, promote_options="default"))
    return found


def done_names(run: OpenRun) -> Iterator[str]:
    """The chunks whose rows count, in the manifest's order; names in the order of S3's listing lie slot by slot."""
    size = run.record.chunk_size

    def slot(name: str) -> tuple[int, int]:
        place = ChunkPlace.parse(name)
        return place.part, place.start // size

    for _, names in groupby(list_names(run.store, run.address.summaries), key=slot):
        places = {ChunkPlace.parse(name): name for name in names}
        yield from (places[place] for place in outermost(places))


def in_order_ahead(pool: ThreadPoolExecutor, do: Callable[[Given], Found], given: Iterable[Given]) -> Iterator[Found]:
    """What `do` makes of each, in order; no more than twice the pool's threads are ever begun and not taken."""
    begun: deque[Future[Found]] = deque()
    for one in given:
        begun.append(pool.submit(do, one))
        if len(begun) > 2 * READ_THREADS:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _read_columns(run: OpenRun, name: str) -> pa.Table:
    """The counted columns of a part; of features, which may be large, not a byte is fetched."""
    key = run.address.part_key(name)
    with s3_errors(f"read {key}"):
        if run.record.job.mode in (Mode.EXTRACT_FEATURES, Mode.FINE_TUNE):
            source: Any = StoredFile(run.store, key, buffer_size=64 * 1024)
        else:
            source = pa.BufferReader(memoryview(obstore.get(run.store, key).bytes()))
        part = pq.ParquetFile(source)
        columns = [column for column in COLUMNS if column in part.schema_arrow.names]
        return part.read(columns, use_threads=False)  # parts are read side by side already


def _pairs(rows: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in columns), strict=True)
