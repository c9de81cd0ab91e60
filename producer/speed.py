"""Speed: from chunk summaries, in any order, to the images per second of a herd whose networks are loaded."""

from dataclasses import dataclass
from datetime import datetime

from config.results import ChunkSummary

#: Seconds below which nothing is divided.
MOMENT_S = 0.001


@dataclass(slots=True)
class _Process:
    """What one process did: all its images, those of its first chunk, and when that one and the last one ended."""

    images: int
    first_images: int
    first_ended_at: datetime
    ended_at: datetime


class WarmSpeed:
    """Adds up the speed of all processes, each without its first chunk, in which it fetches and loads the network."""

    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}

    def add(self, summary: ChunkSummary) -> None:
        """Take a summary that is new."""
        images, ended_at = summary.images, summary.ended_at
        known = self._processes.get(summary.worker)
        if known is None:
            self._processes[summary.worker] = _Process(images, images, ended_at, ended_at)
            return
        known.images += images
        known.ended_at = max(known.ended_at, ended_at)
        if ended_at < known.first_ended_at:
            known.first_images, known.first_ended_at = images, ended_at

    @property
    def images_per_s(self) -> float | None:
        """None where no process has done a second chunk."""
        rates = [
            (known.images - known.first_images) / seconds
            for known in self._processes.values()
            if (seconds := (known.ended_at - known.first_ended_at).total_seconds()) > MOMENT_S
        ]
        return sum(rates) if rates else None
