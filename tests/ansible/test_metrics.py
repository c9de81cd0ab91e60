"""autoscale against moto's CloudWatch and Auto Scaling: what is published arrives under the names that alarms watch.

What moto takes is no proof of what AWS takes.
"""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

import producer
from config.settings import Settings
from producer.local_stack import child_environment, write_config
from producer.metrics import METRICS, NAMESPACE
from producer.ports import free_ports, is_open
from tests.producer.stand_in import finish_chunk, take_chunks
from tests.test_compose import ROOT, needed, present

present("moto")
yaml = needed("yaml")

GROUP, REGION = "pixelherd-demo-workers", "eu-west-1"


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """The address of moto's AWS, and keys for it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    (port,) = free_ports(1)
    with (tmp_path / "aws.log").open("wb") as log:
        command = [sys.executable, str(Path(__file__).with_name("aws_server.py")), str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(tmp_path)})
        try:
            wait_for(lambda: is_open(port) or server.poll() is not None)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def group(aws):
    """An Auto Scaling group of three."""
    ec2, scaling = (boto3.client(name, endpoint_url=aws) for name in ("ec2", "autoscaling"))
    image = ec2.describe_images()["Images"][0]["ImageId"]
    ec2.create_launch_template(
        LaunchTemplateName="worker", LaunchTemplateData={"ImageId": image, "InstanceType": "c7i.large"}
    )
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        LaunchTemplate={"LaunchTemplateName": "worker"},
        MinSize=0,
        MaxSize=9,
        DesiredCapacity=3,
        AvailabilityZones=[f"{REGION}a"],
    )
    return scaling


@pytest.fixture
def of_fleet(settings: Settings, bucket: str, aws: str, group) -> Settings:
    changes = {"output": f"s3://{bucket}/out/", "autoscaling_group": GROUP, "aws_endpoint_url": aws, "fleet": "demo"}
    return settings.model_copy(update={**changes, "s3_region": REGION, "autoscale_interval_s": 0.5})


def published(aws):
    """Every metric, with the values of its fleet and what is its unit."""
    cloudwatch, now = boto3.client("cloudwatch", endpoint_url=aws), datetime.now(UTC)
    found = {}
    for metric in cloudwatch.list_metrics(Namespace=NAMESPACE)["Metrics"]:
        assert metric["Dimensions"] == [{"Name": "Fleet", "Value": "demo"}]
        points = cloudwatch.get_metric_statistics(
            **metric,
            StartTime=now - timedelta(minutes=5),
            EndTime=now + timedelta(minutes=5),
            Period=3_600,
            Statistics=["Maximum"],
        )["Datapoints"]
        found[metric["MetricName"]] = max(point["Maximum"] for point in points)
    return found


def submitted(settings, bucket, store_keys):
    run = producer.submit(
        "classify", [f"s3://{bucket}/{key}" for key in store_keys], settings=settings, output=settings.output
    )
    assert run.wait_enqueued(60)
    return run


def command(*arguments, config):
    return subprocess.run(
        [sys.executable, "-m", "producer.cli", "autoscale", *arguments],
        env=child_environment(config),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_backlog_arrives_and_a_group_at_zero_is_woken(of_fleet, bucket, aws, group, tmp_path):
    config = write_config(of_fleet, tmp_path / "autoscale.toml")
    assert command("--once", "--dry-run", config=config).returncode == 0
    assert published(aws) == {}, "a dry run publishes nothing"
    submitted(of_fleet, bucket, [f"{number:03d}.jpg" for number in range(48)])
    ran = command("--once", "--json", config=config)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["images_to_do"] == 48
    found = published(aws)
    assert found.pop("OldestChunkSeconds") < 300
    assert found == {"ImagesToDo": 48, "Workers": 3, "ImagesWithoutWorker": 0}, "no rate is known, so no backlog"
    finish_chunk(of_fleet, take_chunks(of_fleet, 1)[0], chunk_s=2.0)  # 16 images in 2 s: 8 images/s
    command("--once", config=config)
    assert published(aws)["BacklogSecondsPerWorker"] == pytest.approx(32 / 8 / 3)
    assert published(aws)["ImagesPerSecondPerWorker"] == pytest.approx(8)
    group.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=0)
    wait_for(lambda: not group.describe_auto_scaling_groups()["AutoScalingGroups"][0]["Instances"])
    command("--once", config=config)
    assert published(aws)["ImagesWithoutWorker"] == 32
    assert set(published(aws)) == {name for name, _ in METRICS.values()}


def test_what_the_policies_watch_is_what_is_published():
    tasks = yaml.safe_load((ROOT / "ansible/roles/worker_group/tasks/scaling.yml").read_text(encoding="utf-8"))
    watched = [found for task in tasks for found in specifications(task)]
    assert {found["metric_name"] for found in watched} <= {name for name, _ in METRICS.values()}
    assert {found["namespace"] for found in watched} == {NAMESPACE}
    assert len(watched) == 3


def specifications(value):
    """Every mapping that names a metric."""
    if isinstance(value, dict):
        if "metric_name" in value:
            yield value
        for inner in value.values():
            yield from specifications(inner)


def wait_for(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
