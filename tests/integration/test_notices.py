"""The end of a machine as AWS tells it: a real worker beside a metadata service on loopback, a chunk in its hand."""

import json
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.herd import Herd, Supervised
from config.clients import make_redis
from tests.aws import MetadataService, ScalingEndpoint, metadata_service, serving_forever
from tests.integration.herds import hands, serving, submit, wait_until, written
from workers.drain import DRAINED_EXIT_CODE, SPOT_RESERVE_S
from workers.metadata import REBALANCE, SPOT, TARGET_STATE

CHUNK = 16
SLOW_S = 0.15
SETTINGS = {"chunk_size": CHUNK, "engine_threads": 1, "decode_threads": 1, "fetch_threads": 1}

#: Seconds that a worker may take to end after its chunk, on a machine that does other things too.
END_S = 60


@pytest.fixture(scope="module")
def servers_of_our_own(cache_dir: Path) -> Iterator[Herd]:
    """Redis, and an S3 server behind a proxy that makes it slow."""
    with serving(cache_dir, **SETTINGS) as herd:
        yield herd


@pytest.fixture
def herd(servers_of_our_own: Herd) -> Iterator[Herd]:
    """Empty, and with no worker."""
    herd = servers_of_our_own
    with make_redis(herd.settings) as client:
        client.flushall()
    yield herd
    herd.dismiss()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataService]:
    """The metadata of a worker's machine; its AWS calls are signed with its role's keys."""
    with metadata_service(tmp_path) as service:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        yield service


@pytest.fixture
def scaling() -> Iterator[ScalingEndpoint]:
    endpoint = ScalingEndpoint()
    with serving_forever(endpoint):
        yield endpoint


@pytest.fixture
def leaving(herd: Herd, machine: MetadataService, scaling: ScalingEndpoint) -> Callable[..., Supervised]:
    """Start a worker that is told by this metadata service when to go."""
    group = {"autoscaling_group": "fleet", "metadata_url": machine.url, "aws_endpoint_url": scaling.url}
    return lambda **changes: herd.add_worker(**group, **changes)


def test_a_spot_notice_gives_the_chunk_back_and_the_machine_away(
    herd: Herd, machine: MetadataService, scaling: ScalingEndpoint, leaving: Callable[..., Supervised]
) -> None:
    worker = leaving()
    task = submit(herd, CHUNK, SLOW_S)
    wait_until(lambda: hands(herd), "a chunk in hand", herd)
    ((chunk, first),) = hands(herd).items()
    herd.s3_proxy.delay_s = 10 * SLOW_S  # for as long as it takes to start another worker, and longer
    other = herd.add_worker()
    other.child.wait()
    end = datetime.now(UTC) + timedelta(seconds=SPOT_RESERVE_S + 6)  # not a chunk's time, long as the default grace is
    machine.put(SPOT, json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")}))
    wait_until(lambda: hands(herd).get(chunk, first) != first, "another holder", herd)
    assert datetime.now(UTC) < end
    assert hands(herd)[chunk][1] == 0  # nobody died of it
    assert worker.child.process.wait(END_S) == DRAINED_EXIT_CODE
    (told,) = scaling.hook_calls()
    assert told["Action"] == "CompleteLifecycleAction"
    assert (told["AutoScalingGroupName"], told["LifecycleHookName"]) == ("fleet", "drain")
    assert (told["InstanceId"], told["key"]) == ("i-0123456789abcdef0", "AKIDROLE")
    assert "drain=told why=spot left_s=" in herd.logs()
    assert "drain=deadline" in herd.logs()
    herd.s3_proxy.delay_s = 0.0
    task.finish()
    assert written(herd) == {chunk: 1}


def test_a_scale_in_waits_for_the_chunk_and_holds_the_hook_meanwhile(
    herd: Herd, machine: MetadataService, scaling: ScalingEndpoint, leaving: Callable[..., Supervised]
) -> None:
    machine.put(REBALANCE, '{"noticeTime": "2026-11-22T13:40:00Z"}')  # which is no end
    worker = leaving(shutdown_grace_s=1)  # a signal's clock, and not this one's
    task = submit(herd, 2 * CHUNK, 3 * SLOW_S)
    wait_until(lambda: "drain=not_yet why=rebalance_recommended" in herd.logs(), "a recommendation", herd)
    wait_until(lambda: hands(herd), "a chunk in hand", herd)
    (in_hand,) = hands(herd)
    machine.put(TARGET_STATE, "Terminated")
    wait_until(scaling.hook_calls, "a heartbeat", herd)
    assert worker.child.process.wait(END_S) == DRAINED_EXIT_CODE
    assert set(scaling.hook_actions()[:-1]) == {"RecordLifecycleActionHeartbeat"}
    assert scaling.hook_actions()[-1] == "CompleteLifecycleAction"
    assert "drain=told why=scale_in left_s=hook grace_s=1800" in herd.logs()
    assert "drain=deadline" not in herd.logs()
    assert in_hand in written(herd)
    assert hands(herd) == {}
    herd.s3_proxy.delay_s = 0.0
    herd.add_worker()
    task.finish()
    assert set(written(herd).values()) == {1}


def test_a_worker_that_is_stopped_or_started_on_an_ending_machine_lets_it_go(
    herd: Herd, machine: MetadataService, scaling: ScalingEndpoint, leaving: Callable[..., Supervised]
) -> None:
    stopped = leaving()
    stopped.child.wait()
    machine.put(TARGET_STATE, "Terminated")
    stopped.signal(signal.SIGTERM)  # systemd, before the worker has looked
    assert stopped.child.process.wait(END_S) == DRAINED_EXIT_CODE
    assert scaling.hook_actions()[-1] == "CompleteLifecycleAction"
    calls = len(scaling.hook_calls())
    started = leaving()
    assert started.child.process.wait(END_S) == DRAINED_EXIT_CODE
    assert scaling.hook_actions()[calls:] == ["CompleteLifecycleAction"]
    assert "worker=not_started" in herd.logs()
    assert "ready" not in started.child.program.log.read_text(encoding="utf-8")
