"""Memory: from a running worker to the memory of its processes over time, its peak and whether it stayed flat."""

import threading
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Self

import psutil

#: Seconds between two looks: reading the pages of a process of 1 GB takes the kernel some milliseconds.
INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """Bytes. A child is a process that computes; PSS shares out pages that several processes use."""

    child_peak_pss: int
    child_peak_rss: int
    worker_peak_pss: int
    #: Mean of a child's PSS in each quarter of the time: equal where memory is flat.
    child_pss_by_quarter: tuple[int, ...]


class MemoryWatch:
    """Looks at a worker's processes in a thread while it is entered."""

    def __init__(self, worker_pid: int) -> None:
        self._worker = psutil.Process(worker_pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._children: list[tuple[int, int]] = []  # PSS and RSS of the largest child at each look
        self._whole: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def figures(self) -> MemoryFigures | None:
        """What was seen; None where the time was too short for a look at each quarter."""
        looks = len(self._children)
        if looks < 4:
            return None
        quarters = pairwise(looks * quarter // 4 for quarter in range(5))
        return MemoryFigures(
            child_peak_pss=max(pss for pss, _ in self._children),
            child_peak_rss=max(rss for _, rss in self._children),
            worker_peak_pss=max(self._whole),
            child_pss_by_quarter=tuple(
                round(mean(pss for pss, _ in self._children[begin:end])) for begin, end in quarters
            ),
        )

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            children = [_pss_and_rss(child) for child in self._worker.children(recursive=True)]
            if children:
                self._children.append(max(children))
                self._whole.append(_pss_and_rss(self._worker)[0] + sum(pss for pss, _ in children))


def _pss_and_rss(process: psutil.Process) -> tuple[int, int]:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it ended just now
        return 0, 0
    return getattr(memory, "pss", memory.uss), memory.rss
