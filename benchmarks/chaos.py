"""Chaos: from a seed to a table of faults that runs survived: no row lost, doubled, or other than in a quiet run.

python -m benchmarks.chaos --faults 100 --seed 7 --minutes 20
"""

import argparse
import random
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import obstore

from benchmarks.faults import FAULT_ERRORS, FAULTS
from benchmarks.herd import Herd, Supervised, running_herd
from benchmarks.outcome import Outcome, Rows, check_rows, print_tables, report
from config.clients import make_s3, make_store
from config.results import RunAddress
from producer.local_stack import child_environment
from producer.processes import Program, starting
from tests.images import UNREADABLE, noise

IMAGES = 2_000
WORKERS = 3
BUCKET = "chaos"

#: Settings that make a small run go through what a large one does: many chunks, few of them in Redis at once, and
#: time limits that a campaign can wait for.
SETTINGS = {
    "chunk_size": 16,
    "queue_window": 24,
    "visibility_timeout_s": 12,
    "shutdown_grace_s": 3,
    "s3_timeout_s": 5.0,
    "s3_retry_timeout_s": 15.0,
    "chunk_retries": 8,
    "engine_threads": 1,
    "decode_threads": 1,
}

#: Seconds without a fault, at least and at most: long enough for a worker to start again and do a few chunks.
PAUSE_S = (2.0, 7.0)

#: Seconds for a run to end after the last fault: a lost chunk is found within 60 s, a dead worker's within 30 s.
END_PATIENCE_S = 240.0

#: Seconds between two looks at the herd.
LOOK_S = 0.2

_PRODUCER = [sys.executable, "-m", "benchmarks.chaos_producer"]

#: A worker's line for each chunk that it has written.
_WRITTEN = re.compile(r"workers\.pipeline chunk=(\S+) run=(\S+) images=")


def main() -> int:
    """Run the campaign, print its table; 1 where a row was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=100, help="faults in all")
    parser.add_argument("--a-run", type=int, default=12, help="faults in one run at most")
    parser.add_argument("--images", type=int, default=IMAGES, help="images of a run")
    parser.add_argument("--minutes", type=float, default=20.0, help="no new fault after so long")
    parser.add_argument("--pause", type=float, nargs=2, default=PAUSE_S, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="the same seed, the same faults")
    asked = parser.parse_args()
    print(f"seed={asked.seed} faults={asked.faults} images={asked.images}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pixelherd-chaos-") as name:
        outcomes = list(campaign(Path(name), asked))
    return print_tables(asked.seed, outcomes, FAULTS)


def campaign(directory: Path, asked: argparse.Namespace) -> Iterator[Outcome]:
    """A quiet run, then runs with faults until there were enough of them; yields all."""
    plague = Plague(random.Random(asked.seed), time.monotonic() + 60 * asked.minutes, asked.pause)
    with running_herd(directory, WORKERS, **SETTINGS) as herd:
        plant(herd, asked.images)
        quiet, expected = one_run(herd, plague, {})
        if quiet.rows != asked.images:  # all others are compared with it
            quiet.note = f"{asked.images} images, {quiet.rows} rows in a quiet run"
        report(quiet)
        yield quiet
        left = asked.faults
        while left > 0 and time.monotonic() < plague.deadline:
            plague.left = min(left, asked.a_run)
            outcome, _ = one_run(herd, plague, expected)
            left -= outcome.faults.total()
            report(outcome)
            yield outcome


def plant(herd: Herd, images: int) -> None:
    """The images, some of which cannot be read."""
    with closing(make_s3(herd.settings)) as s3:
        s3.create_bucket(Bucket=BUCKET)
    store = make_store(herd.settings, BUCKET)
    bad = [body for body, _ in UNREADABLE.values()]
    for number in range(images):
        body = bad[number // 97 % len(bad)] if number % 97 == 96 else noise(number)
        obstore.put(store, f"in/{number:05d}.jpg", body)


def one_run(herd: Herd, plague: "Plague", expected: Rows) -> tuple[Outcome, Rows]:
    """One run from its submission to its last row; and its rows."""
    outcome, began = Outcome(), time.monotonic()
    with running_producer(herd) as producer:
        address = drive(herd, producer, plague, outcome)
    outcome.seconds = time.monotonic() - began
    if address is None:
        outcome.note = "the run never began"
        return outcome, {}
    outcome.run_id = address.run_id
    store = make_store(herd.settings, BUCKET)
    rows = check_rows(store, address, expected, outcome)
    logged = producer.child.program.log.read_text(errors="replace")
    outcome.reconciled = sum(int(found) for found in re.findall(r"event (\d+) chunks? had got lost", logged))
    written = Counter(chunk for chunk, run in _WRITTEN.findall(herd.logs()) if run == address.run_id)
    outcome.again = written.total() - len(written)
    if outcome.again > WORKERS * outcome.faults.total():  # each worker has one chunk in hand when something happens
        outcome.note = f"{outcome.again} chunks done again"
    return outcome, rows


@dataclass(slots=True)
class Plague:
    """Which fault comes next, and when; a bag of all kinds is emptied before it is filled again."""

    chance: random.Random
    deadline: float
    pause_s: tuple[float, float]
    left: int = 0
    due: float = 0.0
    bag: list[str] = field(default_factory=list)

    def strike(self, herd: Herd, producer: Supervised) -> str | None:
        """Let one happen if it is time; its name, where it did."""
        if not self.left or not self.due <= time.monotonic() < self.deadline:
            return None
        self.bag = self.bag or bag_of_faults(self.chance)
        name, struck = self.bag.pop(), False
        with suppress(*FAULT_ERRORS):
            struck = FAULTS[name][0](herd, producer, self.chance)
        self.wait()
        self.left -= struck
        return name if struck else None

    def wait(self) -> None:
        """Give the herd a moment."""
        self.due = time.monotonic() + self.chance.uniform(*self.pause_s)


@contextmanager
def running_producer(herd: Herd) -> Iterator[Supervised]:
    """A producer of its own process that submits a run."""
    command = [*_PRODUCER, "submit", f"s3://{BUCKET}/in/", f"s3://{BUCKET}/out/"]
    log = herd.directory / f"producer-{secrets.token_hex(4)}.log"
    with ExitStack() as stack:
        program = Program("the producer", command, child_environment(herd.config), log)
        producer = Supervised(stack.enter_context(starting(program)))
        stack.callback(producer.stop)
        yield producer


def drive(herd: Herd, producer: Supervised, plague: Plague, outcome: Outcome) -> RunAddress | None:
    """Until the run is done: start again what has ended, and let things go wrong."""
    log, quiet_since = producer.child.program.log, time.monotonic()
    plague.wait()
    while True:
        herd.tend()
        found = re.search(r"^address (\S+)$", log.read_text(errors="replace"), re.MULTILINE)
        address = RunAddress.parse(found[1]) if found else None
        code = producer.child.process.poll()
        if code == 0:
            return address
        if code is not None:
            outcome.resumed += 1
            producer.start([*_PRODUCER, "resume", str(address)] if address else None)
        if address and (name := plague.strike(herd, producer)):
            outcome.faults[name] += 1
            quiet_since = time.monotonic()
        if time.monotonic() - quiet_since > END_PATIENCE_S:
            outcome.note = f"not done {END_PATIENCE_S:.0f} s after the last fault"
            return address
        time.sleep(LOOK_S)


def bag_of_faults(chance: random.Random) -> list[str]:
    """Every kind as often as it weighs, in a random order."""
    names = [name for name, (_, weight) in FAULTS.items() for _ in range(weight)]
    chance.shuffle(names)
    return names


if __name__ == "__main__":
    sys.exit(main())
