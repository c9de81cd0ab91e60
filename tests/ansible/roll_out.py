"""Machines on a bridge -> the fleet that the roles make of them, with stand-ins for AWS and a real S3 server.

The broker's machine gets what site.yml sends to it. A builder gets the role `worker`; two workers then start from
what it has written, as instances start from its image, and know only what AWS tells them.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.proxy import running_proxy
from config.clients import make_s3
from config.settings import read_settings
from producer.ports import on_free_ports
from producer.servers import running_s3
from tests.ansible.account import FLEET, REGION
from tests.ansible.debian import bake_root, lay_out_libraries, run
from tests.ansible.machines import Machine, bridged
from tests.ansible.site import ACCOUNT, BUCKET, GROUP, Site
from tests.test_compose import ROOT, tool

PARAMETERS = f"/pixelherd/{FLEET}"
FLOWER_PASSWORD = "planted-2"
WORKERS = ("worker1", "worker2")
AWS_START_S = 60

WORKER_PLAY = """
- name: Make a worker of the builder
  hosts: builder
  become: true
  roles: [worker]
"""

#: The broker's own task writes this parameter from a machine of AWS's; its template is what matters here.
PARAMETER_PLAY = """
- name: Write what a worker is told
  hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.template:
        src: roles/broker_machine/templates/worker_settings.toml.j2
        dest: "{{ written }}"
        mode: "0600"
"""


@contextmanager
def running_site(path: Path) -> Iterator[Site]:
    """Bake, boot and configure everything."""
    with ExitStack() as stack:
        run(tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", path / "key")
        root = bake_root(path / "debian", (path / "key.pub").read_text(encoding="utf-8"))
        libraries = {lock: lay_out_libraries(root, path / lock, "build", lock) for lock in ("flower", "worker")}
        bridge = stack.enter_context(bridged())
        s3 = stack.enter_context(running_s3(path))
        port = int(s3.settings["s3_endpoint_url"].rpartition(":")[2])
        s3_proxy = stack.enter_context(running_proxy(port, bridge.address))
        aws_url = stack.enter_context(on_free_ports(1, lambda ports: _aws(path, bridge.address, ports[0])))
        broker = Machine(bridge, "broker", [libraries["flower"], root], path / "broker", _metadata(path, "broker"))
        site = Site(path, bridge, read_settings(**s3.settings), s3_proxy, aws_url, broker)
        _stand_for_aws(root, site)
        _copy_checkout(path / "checkout")
        _fill_account(site)
        builder = Machine(bridge, "builder", [libraries["worker"], root], path / "builder")
        stack.enter_context(broker.running())
        with builder.running():
            # The broker's play builds a wheel of the checkout, and this one is given a wheel: at once, they are not
            # in each other's way.
            wheel = _build_wheel(path)
            plays = [
                (site.play("site", "--limit", "broker", machine=broker), broker),
                (site.play("worker", "-e", f"package_source={wheel}", machine=builder), builder),
            ]
            for play, machine in plays:
                site.played(play, machine)
        layers = [builder.written, libraries["worker"], root]
        machines = [Machine(bridge, name, layers, path / name, _metadata(path, name)) for name in WORKERS]
        site.workers = tuple(stack.enter_context(machine.running()) for machine in machines)
        yield site


@contextmanager
def _aws(path: Path, address: str, port: int) -> Iterator[str]:
    with (path / "aws.log").open("wb") as log:
        command = [sys.executable, str(Path(__file__).with_name("aws_server.py")), str(port), address]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + AWS_START_S
            while not _listens(address, port):
                assert server.poll() is None, (path / "aws.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"http://{address}:{port}"
        finally:
            server.terminate()
            server.wait()


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def _metadata(path: Path, name: str) -> Path:
    return path / "metadata" / name


def _stand_for_aws(root: Path, site: Site) -> None:
    """What leads every program of systemd's to the stand-ins; the files that the roles write stay as they are."""
    drop_in = root / "etc/systemd/system.conf.d/aws.conf"
    drop_in.parent.mkdir(parents=True)
    given = " ".join(f'"{name}={value}"' for name, value in beyond_aws(site).items())
    drop_in.write_text(f"[Manager]\nDefaultEnvironment={given}\n", encoding="utf-8")


def beyond_aws(site: Site) -> dict[str, str]:
    """Variables that a machine of AWS's does not need. One image at a time: a slow S3 then makes a chunk slow."""
    assert site.s3.s3_access_key_id
    assert site.s3.s3_secret_access_key
    return {
        "AWS_ENDPOINT_URL_SSM": site.aws_url,
        "PIXELHERD_AWS_ENDPOINT_URL": site.aws_url,
        "PIXELHERD_S3_ENDPOINT_URL": f"http://{site.bridge.address}:{site.s3_proxy.port}",
        "PIXELHERD_S3_ACCESS_KEY_ID": site.s3.s3_access_key_id,
        "PIXELHERD_S3_SECRET_ACCESS_KEY": site.s3.s3_secret_access_key.get_secret_value(),
        "PIXELHERD_FETCH_THREADS": "1",
    }


def _copy_checkout(tree: Path) -> None:
    """A copy: a wheel is built in it."""
    for name in ("ansible", "config", "producer", "workers"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "ansible/worker.yml").write_text(WORKER_PLAY, encoding="utf-8")
    (tree / "ansible/parameter.yml").write_text(PARAMETER_PLAY, encoding="utf-8")


def _build_wheel(path: Path) -> Path:
    copied = shutil.copytree(path / "checkout", path / "given")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    run(*command, path / "wheels", copied, timeout_s=300)
    (wheel,) = (path / "wheels").glob("*.whl")
    return wheel


def _fill_account(site: Site) -> None:
    """What the roles that speak to AWS alone have made: bucket, parameters, a group with a hook and two instances."""
    with closing(make_s3(site.s3)) as s3:
        s3.create_bucket(Bucket=BUCKET)
    written = site.path / "worker_settings.toml"
    given = {"written": str(written), "aws_region": REGION, "account_id": ACCOUNT}
    given |= {"broker_machine__password": "planted-1", "broker_machine_private_address": site.broker.address}
    site.played(site.play("parameter", "-e", json.dumps(given), machine=site.broker), site.broker)
    parameters = {
        "broker-password": "planted-1",
        "flower-password": FLOWER_PASSWORD,
        "worker/settings.toml": written.read_text(encoding="utf-8"),
    }
    for name, value in parameters.items():
        site.client("ssm").put_parameter(Name=f"{PARAMETERS}/{name}", Value=value, Type="SecureString")
    ec2, scaling = site.client("ec2"), site.client("autoscaling")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    ec2.create_launch_template(
        LaunchTemplateName="worker", LaunchTemplateData={"ImageId": image, "InstanceType": "c7i.xlarge"}
    )
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        LaunchTemplate={"LaunchTemplateName": "worker"},
        MinSize=0,
        MaxSize=len(WORKERS),
        DesiredCapacity=len(WORKERS),
        AvailabilityZones=[f"{REGION}a"],
    )
    scaling.put_lifecycle_hook(
        AutoScalingGroupName=GROUP,
        LifecycleHookName="drain",
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        HeartbeatTimeout=300,
    )
    keys = {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "role", "SecretAccessKey": "role", "Token": "role"}
    keys |= {"LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2036-01-01T00:00:00Z"}
    for name, instance in zip(("broker", *WORKERS), ("i-0broker", *site.members()), strict=True):
        told = {
            "instance-id": instance,
            "placement/region": REGION,
            f"iam/security-credentials/{name}": json.dumps(keys),
        }
        for leaf, value in {**told, "autoscaling/target-lifecycle-state": "InService"}.items():
            file = _metadata(site.path, name) / leaf
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value, encoding="utf-8")
