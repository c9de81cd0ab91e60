"""Fine-tune: a folder of photographs in, two tables out: against plain `fit`, and how well groups are told apart.

`python -m benchmarks.finetune PHOTOGRAPHS` takes files that are named after ImageNet's classes (n02085936_….JPEG).
Both sides train the same new head on the same frozen network, with the same optimizer, batches, images and epochs.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import obstore
from rich.console import Console
from rich.table import Table

import producer
from benchmarks.herd import Herd, running_herd
from config.clients import make_s3, make_store
from config.settings import Settings
from config.trained import EpochRecord, TrainingSummary

BUCKET = "bench"

#: Phase one is to be so many times faster than plain `fit` at EPOCHS epochs.
GOAL_RATIO = 5.0
EPOCHS = 5

#: Groups of ImageNet's classes, by WordNet's numbers: from the first to the last one, both included.
GROUPS = {
    "birds": (("n01514668", "n01622779"), ("n01795545", "n01860187"), ("n02002556", "n02058221")),
    "dogs": (("n02085620", "n02113978"),),
    "food": (("n07579787", "n07932039"),),
    "vehicles": (
        *(("n03100240", "n03100240"), ("n03384352", "n03384352"), ("n03770679", "n03770679")),
        *(("n03792782", "n03792782"), ("n03895866", "n03895866")),
    ),
}

#: Runs over the same photographs under other keys, so that others validate.
SPLITS = 3
SPLIT_EPOCHS, SPLIT_BATCH, SPLIT_SHARE = 12, 4, 0.3

#: PUTs in flight.
UPLOAD_THREADS = 8


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether the goals were reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--images", type=int, default=800, help="images of the comparison with fit; 0: no comparison")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(words)
    groups = {path: group for path in sorted(given.photographs.iterdir()) if (group := group_of(path.name))}
    console, ratio = Console(), GOAL_RATIO
    with tempfile.TemporaryDirectory(prefix="pixelherd-bench-") as name:
        directory = Path(name)
        copies = write_copies(groups, directory / "images", given.images)
        with serving(directory / "herd", given.processes) as herd:
            ours_s, told = measure_ours(herd, copies) if copies else (0.0, None)
            splits = [measure_split(herd, groups, number) for number in range(SPLITS)]
        if told is not None:
            fit_s, fit_accuracy = measure_fit(directory / "images")
            ratio = fit_s / ours_s
            table = Table(title=f"A new head on efficientnet_lite0: {len(copies)} images, {EPOCHS} epochs")
            for column in ("what", "seconds", "val_accuracy"):
                table.add_column(column, justify="left" if column == "what" else "right")
            table.add_row("plain fit, decoded images cached in memory", f"{fit_s:.1f}", f"{fit_accuracy:.3f}")
            table.add_row("pixelherd, submit to model.keras", f"{ours_s:.1f}", f"{told.val_accuracy:.3f}")
            table.add_row("  of which the epochs themselves", f"{told.seconds:.1f}", "")
            table.add_row("ratio", f"{ratio:.2f} ×", "")
            console.print(table)
    console.print(table_of_splits(groups, splits))
    return 0 if ratio >= GOAL_RATIO else 1


def table_of_splits(groups: dict[Path, str], splits: Sequence[tuple[int, float]]) -> Table:
    """How many photographs of each group there are, and how well those are told apart that were not trained on."""
    counts = ", ".join(f"{count} {group}" for group, count in sorted(Counter(groups.values()).items()))
    table = Table(title=f"Photographs: {counts}; {SPLIT_EPOCHS} epochs of the head")
    for column in ("split", "validated", "val_accuracy"):
        table.add_column(column, justify="right")
    for number, (validated, accuracy) in enumerate(splits):
        table.add_row(str(number), str(validated), f"{accuracy:.3f}")
    validated = sum(images for images, _ in splits)
    table.add_row("all", str(validated), f"{sum(images * accuracy for images, accuracy in splits) / validated:.3f}")
    return table


def group_of(name: str) -> str | None:
    """The group of a photograph's class; None where it is in none."""
    wnid = name.partition("_")[0]
    fits = (group for group, ranges in GROUPS.items() if any(first <= wnid <= last for first, last in ranges))
    return next(fits, None)


def write_copies(groups: dict[Path, str], to: Path, images: int) -> dict[str, Path]:
    """So many files, group by group as Keras reads them, each photograph again and again; name -> file."""
    copies = {}
    for number in range(images):
        path, group = list(groups.items())[number % len(groups)]
        copy = to / group / f"{number:05d}.jpg"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copies[f"{group}/{copy.name}"] = copy
    return copies


@contextmanager
def serving(directory: Path, processes: int) -> Iterator[Herd]:
    """Servers and a worker that has trained once: both sides begin with what they need in memory."""
    directory.mkdir()
    with running_herd(directory, 1, worker_processes=processes) as herd:
        with closing(make_s3(herd.settings)) as s3:
            s3.create_bucket(Bucket=BUCKET)
        yield herd


def upload(settings: Settings, files: dict[str, Path], prefix: str) -> str:
    """Put the files under a prefix; returns its URI."""
    store = make_store(settings, BUCKET)
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        list(pool.map(lambda item: obstore.put(store, prefix + item[0], item[1].read_bytes()), files.items()))
    return f"s3://{BUCKET}/{prefix}"


def train(herd: Herd, source: str, **options: Any) -> tuple[TrainingSummary, EpochRecord]:
    """One run of fine_tune: how it ended, and its last epoch."""
    status = producer.submit("fine_tune", source, settings=herd.settings, **options).wait()
    training = status.training
    if training is None or training.summary is None or training.last is None:
        raise SystemExit(f"{status.run_id}: {status.phase} {status.reason}")
    return training.summary, training.last


def measure_ours(herd: Herd, copies: dict[str, Path]) -> tuple[float, TrainingSummary]:
    """Seconds from submit to the model, and its summary; the worker has loaded its libraries before, as fit has."""
    few = {name: copies[name] for name in sorted(copies)[:: max(1, len(copies) // 48)]}
    train(herd, upload(herd.settings, few, "warm/"), epochs=1)
    source = upload(herd.settings, copies, "all/")
    began = time.perf_counter()
    summary, _ = train(herd, source, epochs=EPOCHS)
    return time.perf_counter() - began, summary


def measure_split(herd: Herd, groups: dict[Path, str], number: int) -> tuple[int, float]:
    """Images that validate, and how many of them are told apart; other keys, and so another split, each time."""
    files = {f"{group}/{path.name}": path for path, group in groups.items()}
    source = upload(herd.settings, files, f"split-{number}/")
    _, last = train(herd, source, epochs=SPLIT_EPOCHS, training_batch=SPLIT_BATCH, validation=SPLIT_SHARE, seed=number)
    return last.val_images, last.val_accuracy


def measure_fit(images: Path) -> tuple[float, float]:
    """Seconds of Keras's own loop, in a process of its own, without its start; and its last val_accuracy."""
    command = [sys.executable, "-m", "benchmarks.plain_fit", str(images), str(EPOCHS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, accuracy = done.stdout.split()[-2:]
    return float(seconds), float(accuracy)


if __name__ == "__main__":
    sys.exit(main())
