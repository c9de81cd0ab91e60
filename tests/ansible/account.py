"""An AWS account on loopback -> the playbooks that are run against it, and all that it holds."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import boto3

from tests.test_compose import ROOT, tool

REGION = "eu-west-1"
FLEET = "demo"
BASE_IMAGE = "/test/base-image"


class Account:
    """An AWS account on loopback, and the playbooks that are run against it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        # A copy, so that the image's name does not change when somebody edits a source meanwhile.
        self.tree = home / "checkout"
        for name in ("ansible", "config", "producer", "workers"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.env = {
            "PATH": f"{Path(tool('ansible-playbook')).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "ANSIBLE_NOCOLOR": "1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str):
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def play(self, book: str, *arguments: str) -> "Played":
        command = [tool("ansible-playbook"), "-i", "localhost,", f"ansible/{book}.yml", "-e", f"fleet={FLEET}"]
        if book == "site":
            command += ["-e", "admin_cidr=203.0.113.7/32", "-e", f"base_image_parameter={BASE_IMAGE}"]
            command += ["--skip-tags", "machine"]
        command += ["-vv", *arguments]
        ran = subprocess.run(command, cwd=self.tree, env=self.env, capture_output=True, text=True, check=False)
        return Played(ran)


class Played:
    """How a playbook's run ended."""

    def __init__(self, ran: subprocess.CompletedProcess[str]) -> None:
        self.output = ran.stdout + ran.stderr
        recap = re.search(r"^localhost\s+: ok=(\d+)\s+changed=(\d+).*failed=(\d+)", ran.stdout, re.MULTILINE)
        assert recap, self.output[-3000:]
        self.ok, self.changed, self.failed = map(int, recap.groups())
        self.returncode = ran.returncode

    def succeeded(self) -> "Played":
        assert self.returncode == 0, self.output[-5000:]
        return self


def holdings(account: Account) -> dict[str, set[str]]:
    """All that an account holds, by kind; what moto makes by itself is in it before and after."""
    ec2, scaling = account.client("ec2"), account.client("autoscaling")
    vpcs = {vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]}
    instances = [one for held in ec2.describe_instances()["Reservations"] for one in held["Instances"]]
    groups = {group["AutoScalingGroupName"] for group in scaling.describe_auto_scaling_groups()["AutoScalingGroups"]}

    def names(service: str, operation: str, listed: str, name: str | None) -> set[str]:
        pages = account.client(service).get_paginator(operation).paginate()
        return {found[name] if name else found for page in pages for found in page.get(listed, [])}

    def of_ec2(operation: str, listed: str, name: str, **given) -> set[str]:
        return {found[name] for found in getattr(ec2, operation)(**given)[listed]}

    endpoints = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    acls = ec2.describe_network_acls()["NetworkAcls"]
    return {
        "vpcs": vpcs,
        "subnets": of_ec2("describe_subnets", "Subnets", "SubnetId"),
        "gateways": of_ec2("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
        "route tables": of_ec2("describe_route_tables", "RouteTables", "RouteTableId"),
        "security groups": of_ec2("describe_security_groups", "SecurityGroups", "GroupId"),
        "endpoints": {one["VpcEndpointId"] for one in endpoints if one["State"].lower() != "deleted"},
        "network ACLs": {one["NetworkAclId"] for one in acls if one["VpcId"] in vpcs},  # moto keeps those of a gone VPC
        "interfaces": of_ec2("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId"),
        "addresses": of_ec2("describe_addresses", "Addresses", "PublicIp"),
        "instances": {one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"},
        "volumes": of_ec2("describe_volumes", "Volumes", "VolumeId"),
        "key pairs": of_ec2("describe_key_pairs", "KeyPairs", "KeyName"),
        "images": of_ec2("describe_images", "Images", "ImageId", Owners=["self"]),
        "snapshots": of_ec2("describe_snapshots", "Snapshots", "SnapshotId", OwnerIds=["self"]),
        "launch templates": of_ec2("describe_launch_templates", "LaunchTemplates", "LaunchTemplateId"),
        "groups": groups,
        "policies": names("autoscaling", "describe_policies", "ScalingPolicies", "PolicyName"),
        "hooks": {
            hook["LifecycleHookName"]
            for group in groups
            for hook in scaling.describe_lifecycle_hooks(AutoScalingGroupName=group)["LifecycleHooks"]
        },
        "alarms": names("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
        "buckets": {bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]},
        "roles": names("iam", "list_roles", "Roles", "RoleName"),
        "profiles": names("iam", "list_instance_profiles", "InstanceProfiles", "InstanceProfileName"),
        "parameters": names("ssm", "describe_parameters", "Parameters", "Name"),
        "files": {str(path.relative_to(account.home)) for path in account.home.glob(".pixelherd/*")},
    }


def added(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, set[str]]:
    return {kind: after[kind] ^ before[kind] for kind in before if after[kind] != before[kind]}
