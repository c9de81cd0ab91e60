"""Scale-in protection: told to the group at each change and not for each chunk, and never in the way of the work."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest
from celery.signals import worker_ready
from obstore.store import S3Store

import producer
import workers.protect
from config.settings import Settings
from producer.processes import Child
from tests.aws import MetadataService, ScalingEndpoint, metadata_service, serving_forever
from tests.images import noise
from workers.protect import IDLE_S, LONGEST_RETRY_S, Protection, protect_while_busy


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(workers.protect, "time", clock)
    return clock


@pytest.fixture
def scaling() -> Iterator[ScalingEndpoint]:
    endpoint = ScalingEndpoint()
    with serving_forever(endpoint):
        yield endpoint


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[MetadataService]:
    with metadata_service(tmp_path / "metadata") as service:
        yield service


@pytest.fixture
def in_group(machine: MetadataService, scaling: ScalingEndpoint, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a machine of the group `fleet`, whose keys come from the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    return Settings(autoscaling_group="fleet", metadata_url=machine.url, aws_endpoint_url=scaling.url)


def told(scaling: ScalingEndpoint) -> list[str]:
    return [call["ProtectedFromScaleIn"] for call in scaling.protections]


def test_a_machine_is_protected_from_its_first_chunk_until_it_is_idle(
    in_group: Settings, scaling: ScalingEndpoint, clock: Clock
) -> None:
    held = [True]
    protection = Protection(in_group, lambda: held[0])
    for _ in range(200):  # as many chunks, and the pauses between them
        held[0] = not held[0]
        clock.now += IDLE_S / 2
        protection.look()
    assert told(scaling) == ["true"]
    call = scaling.protections[0]
    assert (call["AutoScalingGroupName"], call["InstanceIds.member.1"]) == ("fleet", "i-0123456789abcdef0")
    held[0] = False
    for _ in range(200):
        clock.now += 1
        protection.look()
    assert told(scaling) == ["true", "false"]
    held[0] = True
    protection.look()
    assert told(scaling) == ["true", "false", "true"]
    protection.end()
    assert told(scaling) == ["true", "false", "true", "false"]


def test_a_machine_whose_worker_died_of_its_chunk_does_not_stay_protected(
    in_group: Settings, scaling: ScalingEndpoint, clock: Clock
) -> None:
    protection = Protection(in_group, lambda: False)  # the next worker of the same machine
    protection.look()
    assert told(scaling) == []
    clock.now += IDLE_S
    protection.look()
    protection.look()
    assert told(scaling) == ["false"]


def test_a_refused_call_is_made_again_and_again_but_ever_less_often(
    in_group: Settings, machine: MetadataService, scaling: ScalingEndpoint, clock: Clock
) -> None:
    scaling.refuses = True
    protection = Protection(in_group, lambda: True)
    for _ in range(1_200):  # twenty minutes of looks
        protection.look()
        clock.now += 1
    assert 1_200 / LONGEST_RETRY_S <= len(scaling.protections) <= 3 * 1_200 / LONGEST_RETRY_S
    scaling.refuses = False
    clock.now += LONGEST_RETRY_S
    protection.look()
    protection.look()
    tries = len(scaling.protections)
    (machine.directory / "instance-id").unlink()
    protection.end()  # nobody knows the machine's name any more: a line in the log
    clock.now += 10 * LONGEST_RETRY_S
    protection.look()
    assert len(scaling.protections) == tries


def test_no_answer_at_all_is_a_line_in_the_log(in_group: Settings, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = in_group.model_copy(update={"metadata_url": "http://127.0.0.1:1"})
    Protection(nowhere, lambda: True).look()
    assert "protected=yes told=no" in caplog.text


def test_outside_of_a_group_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_ready, "connect", pytest.fail)
    protect_while_busy(Settings())


def test_a_real_worker_is_protected_while_it_works_and_not_when_it_has_stopped(
    settings: Settings,
    in_group: Settings,
    scaling: ScalingEndpoint,
    worker: Callable[..., Child],
    store: S3Store,
    bucket: str,
) -> None:
    obstore.put(store, "in/1.jpg", noise(1))
    changes = {name: getattr(in_group, name) for name in ("autoscaling_group", "metadata_url", "aws_endpoint_url")}
    child = worker(**changes, s3_region="eu-west-1")
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=settings, output=f"s3://{bucket}/out/")
    assert run.wait(timeout_s=120).done == 1
    deadline = time.monotonic() + 60
    while not scaling.protections:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told(scaling) == ["true"]
    child.process.terminate()
    child.process.wait(60)
    assert told(scaling) == ["true", "false"]
