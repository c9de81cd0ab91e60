"""The end of a machine, as its metadata tell it: tokens, notices, clocks, and what the group is told."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.settings import Settings
from producer.ports import free_ports
from tests.aws import MetadataService, ScalingEndpoint, metadata_service, serving_forever
from workers.drain import HEARTBEAT_INTERVAL_S, LOOK_INTERVAL_S, SPOT_RESERVE_S, Drain, grace
from workers.lifecycle import LifeCycle
from workers.metadata import REBALANCE, SPOT, TARGET_STATE, Metadata, Notice, Why, read_notice


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MetadataService]:
    with metadata_service(tmp_path / "metadata") as service:
        yield service


@pytest.fixture
def metadata(service: MetadataService) -> Metadata:
    return Metadata(service.url)


@pytest.fixture
def scaling() -> Iterator[ScalingEndpoint]:
    endpoint = ScalingEndpoint()
    with serving_forever(endpoint):
        yield endpoint


def spot(left_s: float) -> str:
    end = datetime.now(UTC) + timedelta(seconds=left_s)
    return json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")})


def test_one_token_is_used_until_its_time_is_over(service: MetadataService, metadata: Metadata) -> None:
    assert metadata.read("instance-id") == "i-0123456789abcdef0"
    assert metadata.read(SPOT) is None
    assert len(service.tokens) == 1
    service.tokens.clear()  # as after a restart of the service
    assert metadata.read("instance-id") == "i-0123456789abcdef0"
    metadata._renew_at = 0.0
    metadata.read("instance-id")
    assert len(service.tokens) == 2


def test_no_proxy_is_asked_for_the_machine_s_own_metadata(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    assert metadata.read("placement/region") == "eu-west-1"


def test_a_service_that_is_not_there_or_talks_nonsense_is_an_os_error(scaling: ScalingEndpoint) -> None:
    with pytest.raises(OSError, match="refused"):
        Metadata(f"http://127.0.0.1:{free_ports(1)[0]}").read(SPOT)
    with pytest.raises(OSError, match="status 501"):  # it knows no PUT
        Metadata(scaling.url).read(SPOT)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({}, None),
        ({TARGET_STATE: "Warmed:Stopped"}, None),
        ({REBALANCE: '{"noticeTime": "2026-11-22T13:40:00Z"}'}, None),
        ({TARGET_STATE: "Terminated"}, Why.SCALE_IN),
        ({SPOT: spot(120)}, Why.SPOT),
        ({SPOT: spot(120), TARGET_STATE: "Terminated"}, Why.SPOT),
    ],
)
def test_only_an_end_is_a_notice(
    told: dict[str, str], why: Why | None, service: MetadataService, metadata: Metadata
) -> None:
    for name, value in told.items():
        service.put(name, value)
    notice = read_notice(metadata)
    assert (notice and notice.why) == why


@pytest.mark.parametrize(
    ("said", "left_s"),
    [(118, 118), (-30, 0), (3600, 120), ("{", 120), ('{"action": "stop"}', 120), ("[1]", 120)],
)
def test_a_spot_notice_says_how_long(
    said: int | str, left_s: float, service: MetadataService, metadata: Metadata
) -> None:
    service.put(SPOT, said if isinstance(said, str) else spot(said))  # a clock runs from here on
    notice = read_notice(metadata)
    assert notice is not None
    assert notice.left_s == pytest.approx(left_s, abs=10)


def test_the_clocks_are_told_apart() -> None:
    settings = Settings(shutdown_grace_s=100, task_time_limit_s=1_800)
    assert grace(settings, Notice(Why.SPOT, 120.0)) + LOOK_INTERVAL_S + 2 <= 100
    assert grace(settings, Notice(Why.SPOT, SPOT_RESERVE_S - 5)) == 0
    assert grace(Settings(shutdown_grace_s=10), Notice(Why.SPOT, 120.0)) == 10
    assert grace(settings, Notice(Why.SCALE_IN)) == 1_800
    assert HEARTBEAT_INTERVAL_S + LOOK_INTERVAL_S < 30  # AWS's shortest timeout of a hook


def test_outside_of_a_group_nothing_is_looked_for() -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    assert Drain(Settings(), refuse)._metadata is None
    assert Drain(Settings(autoscaling_group="fleet"), refuse)._metadata is not None


@pytest.fixture
def life_cycle(
    service: MetadataService, metadata: Metadata, scaling: ScalingEndpoint, monkeypatch: pytest.MonkeyPatch
) -> LifeCycle:
    """With the rights of the machine's role, which botocore takes from the same metadata service."""
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    settings = Settings(autoscaling_group="fleet", aws_endpoint_url=scaling.url, s3_region="eu-west-1")
    return LifeCycle(settings, metadata)


def test_the_group_is_told_by_the_machine_s_own_role(life_cycle: LifeCycle, scaling: ScalingEndpoint) -> None:
    assert life_cycle.heartbeat()
    assert life_cycle.complete()
    heartbeat, complete = scaling.calls
    told = {"AutoScalingGroupName": "fleet", "LifecycleHookName": "drain", "InstanceId": "i-0123456789abcdef0"}
    for call, action in ((heartbeat, "RecordLifecycleActionHeartbeat"), (complete, "CompleteLifecycleAction")):
        assert call.items() >= {**told, "Action": action, "key": "AKIDROLE"}.items()
    assert complete["LifecycleActionResult"] == "CONTINUE"


def test_a_group_that_does_not_wait_or_does_not_answer_stops_nobody(
    life_cycle: LifeCycle, scaling: ScalingEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    scaling.refuses = True
    assert not life_cycle.complete()
    assert "No active Lifecycle Action found" in caplog.text
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    life_cycle._settings = life_cycle._settings.model_copy(update={"aws_endpoint_url": nobody})
    assert not life_cycle.heartbeat()
