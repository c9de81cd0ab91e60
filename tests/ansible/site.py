"""A fleet on this machine: its machines over SSH, playbooks that are sent to them, and what stands for AWS."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from benchmarks.proxy import Proxy
from config.settings import Settings
from tests.ansible.account import FLEET, REGION
from tests.ansible.debian import USER
from tests.ansible.machines import Bridge, Machine
from tests.test_compose import tool

ACCOUNT = "123456789012"
BUCKET = f"pixelherd-{REGION}-{ACCOUNT}"
GROUP = f"pixelherd-{FLEET}-workers"

#: What a play may take on a machine that does other things too.
PLAY_TIMEOUT_S = 600


@dataclass
class Site:
    """A fleet on this machine: its machines, what stands for AWS, and the S3 server behind a proxy that slows it."""

    path: Path
    bridge: Bridge
    s3: Settings
    s3_proxy: Proxy
    aws_url: str
    broker: Machine
    workers: tuple[Machine, ...] = ()

    def client(self, service: str) -> Any:
        """AWS, as the administrator sees it."""
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client(service, region_name=REGION, endpoint_url=self.aws_url, **keys)

    def members(self) -> dict[str, str]:
        """The group's instances and their states."""
        (group,) = self.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])[
            "AutoScalingGroups"
        ]
        return {one["InstanceId"]: one["LifecycleState"] for one in group["Instances"]}

    def ssh(self, machine: Machine, *options: str) -> list[str]:
        """The command that logs in."""
        known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return [tool("ssh"), "-i", str(self.path / "key"), *known, *options, f"{USER}@{machine.address}"]

    def play(self, book: str, *arguments: str, machine: Machine) -> subprocess.Popen[Any]:
        """Begin a playbook, over SSH to the machine under the name that the playbook has for it."""
        host = {
            "ansible_host": machine.address,
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(self.path / "key"),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            "ansible_python_interpreter": "/usr/bin/python3",
            "aws_region": REGION,
            "account_id": ACCOUNT,
            "broker_private_address": self.broker.address,
        }
        inventory = self.path / f"{machine.name}.json"
        inventory.write_text(json.dumps({"all": {"hosts": {machine.name: host}}}), encoding="utf-8")
        command = [tool("ansible-playbook"), "-i", "localhost,", "-i", str(inventory), f"ansible/{book}.yml"]
        command += ["-e", f"fleet={FLEET}", "-e", "admin_cidr=203.0.113.7/32", *arguments]
        log = (self.path / f"{machine.name}.log").open("w")
        env = self._environment()
        with log:
            return subprocess.Popen(
                command,
                cwd=self.path / "checkout",
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
            )

    def played(self, play: subprocess.Popen[Any], machine: Machine) -> str:
        """Wait for its end, and for nothing less than success."""
        try:
            code = play.wait(PLAY_TIMEOUT_S)
        finally:
            play.kill()
        said = (self.path / f"{machine.name}.log").read_text(encoding="utf-8")
        assert code == 0, said[-5000:]
        return said

    def _environment(self) -> dict[str, str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PIXELHERD_"))}
        return given | {
            "PATH": f"{Path(tool('ansible-playbook')).parent}:{os.environ['PATH']}",
            "HOME": str(self.path),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "AWS_ENDPOINT_URL": self.aws_url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
