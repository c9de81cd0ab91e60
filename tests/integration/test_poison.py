"""Images that kill whoever decodes them: each has its row, its neighbours have theirs, and the deaths are few."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

import producer
from config.clients import make_redis
from config.settings import Settings
from producer.local_stack import child_environment, worker_command, worker_name, write_config
from producer.processes import Child, Program, Stop, starting
from tests.conftest import require
from tests.images import noise
from tests.integration.cage import Cage, caged
from tests.integration.deadly import MAGIC

IMAGES = 8

#: Memory of the worker with its child: twice what both take, so that the kernel soon ends whoever wants it all.
WORKER_BYTES = 1 << 30

#: Seconds for a whole run, deaths and restarts included.
PATIENCE_S = 200.0


@pytest.fixture
def cage() -> Iterator[Cage | None]:
    """What holds a worker to its memory; it outlives the worker."""
    with caged(WORKER_BYTES) as made:
        yield made


@pytest.fixture
def deadly_worker(settings: Settings, cage: Cage | None, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a worker that knows the deadly format; the settings are changed as given."""
    with ExitStack() as stack:

        def start(in_cage: bool = False, **changes: object) -> Child:
            changed = settings.model_copy(update=changes)
            config = write_config(changed, tmp_path / "deadly.toml")
            env = child_environment(config) | {"DEADLY_LOG": str(tmp_path / "deaths"), "PYTHONPATH": "."}
            command = worker_command(changed, worker_name())
            command[command.index("workers.app")] = "tests.integration.deadly"
            command = cage.command(command) if in_cage and cage else command
            program = Program("the worker", command, env, tmp_path / "deadly.log", stop=Stop(patience_s=5))
            return stack.enter_context(starting(program))

        yield start


def plant(store: S3Store, deeds: dict[int, str]) -> dict[str, str]:
    """IMAGES keys, some of them deadly; key -> the status that its row must have."""
    expected = {}
    for number in range(IMAGES):
        key = f"in/{number:03d}.jpg"
        deed = deeds.get(number)
        obstore.put(store, key, MAGIC + deed.encode() if deed else noise(number))
        expected[key] = "poison" if deed else "ok"
    return expected


def finish(run: producer.Run, start: Callable[[], Child]) -> None:
    """Wait for the end of a run as a supervisor would: a worker that has died is started again."""
    child, deadline = start(), time.monotonic() + PATIENCE_S
    while not run.status().ended:
        assert time.monotonic() < deadline, child.program.log.read_text()[-3000:]
        if child.process.poll() is not None:
            child = start()
        time.sleep(0.2)


POISON = {
    "one kills the child": {5: "sigkill"},
    "one crashes the child": {7: "sigsegv"},
    "two in one chunk": {0: "sigkill", 6: "sigkill"},
    "one hangs": {3: "hang"},
    "one kills the whole worker": {4: "tree"},
    "one allocates without end": {2: "allocate"},
}


@pytest.mark.parametrize("case", POISON)
def test_poison_is_found_and_its_neighbours_are_served(
    case: str,
    settings: Settings,
    store: S3Store,
    bucket: str,
    cage: Cage | None,
    deadly_worker: Callable[..., Child],
    tmp_path: Path,
) -> None:
    greedy = "allocate" in POISON[case].values()
    require(cage or not greedy, "a cgroup that limits memory")
    expected = plant(store, POISON[case])
    limit = 4 if case == "one hangs" else 600
    chunky = settings.model_copy(update={"chunk_size": IMAGES, "visibility_timeout_s": 4, "task_time_limit_s": limit})
    run = producer.submit("classify", f"s3://{bucket}/in/", output=f"s3://{bucket}/out/", settings=chunky)
    assert run.wait_enqueued(60)
    finish(run, lambda: deadly_worker(greedy, visibility_timeout_s=4, task_time_limit_s=limit))

    rows = run.results().to_pylist()
    assert {row["key"]: row["status"] for row in rows} == expected
    assert len(rows) == IMAGES
    assert run.status().counts == Counter(expected.values())
    assert bool(cage and cage.kills()) == greedy
    deaths = len((tmp_path / "deaths").read_text().splitlines())
    assert deaths <= len(POISON[case]) * (2 * math.log2(IMAGES) + 3)
    assert make_redis(settings).keys("pixelherd:custody:*") == []


def test_a_memory_error_costs_one_row_and_no_process(
    settings: Settings, store: S3Store, bucket: str, deadly_worker: Callable[..., Child]
) -> None:
    expected = plant(store, {3: "memory"}) | {"in/003.jpg": "too_large"}
    run = producer.submit("classify", f"s3://{bucket}/in/", output=f"s3://{bucket}/out/", settings=settings)
    child = deadly_worker()
    assert run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
    assert {row["key"]: row["status"] for row in run.results().to_pylist()} == expected
    child.check()


def test_an_error_that_nobody_foresaw_gives_the_chunk_up_and_says_so(
    settings: Settings, store: S3Store, bucket: str, deadly_worker: Callable[..., Child]
) -> None:
    plant(store, {3: "bug"})
    run = producer.submit("classify", f"s3://{bucket}/in/", output=f"s3://{bucket}/out/", settings=settings)
    child = deadly_worker(chunk_retries=1)
    assert run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.FAILED
    assert {failure.error for failure in run.report().failures} == {"UnforeseenError: a bug"}
    child.check()
