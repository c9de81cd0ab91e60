"""site.yml and teardown.yml against moto's AWS: made once, made again, taken down, and nothing left.

What moto takes is no proof of what AWS takes; docs/fleet.md says what was never seen there. The tasks tagged
`machine` need real hosts and are left out.
"""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ansible.account import BASE_IMAGE, FLEET, REGION, Account, added, holdings
from tests.test_compose import ROOT, present

present("moto")
present("ansible")
pytestmark = pytest.mark.timeout(1500)

ACCOUNT = "123456789012"
BUCKET = f"pixelherd-{REGION}-{ACCOUNT}"
GROUP = "pixelherd-demo-workers"
START_TIMEOUT_S = 60


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    with ExitStack() as stack:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        home = tmp_path_factory.mktemp("home")
        log = stack.enter_context((home / "aws.log").open("wb"))
        command = [sys.executable, str(Path(__file__).with_name("aws_server.py")), str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(home)})
        stack.callback(server.wait)
        stack.callback(server.terminate)
        account = Account(home, port)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not listens(port):
            assert server.poll() is None, (home / "aws.log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.1)
        image = account.client("ec2").describe_images()["Images"][0]["ImageId"]
        account.client("ssm").put_parameter(Name=BASE_IMAGE, Value=image, Type="String")
        yield account


@pytest.fixture(scope="module")
def before(account):
    return holdings(account)


@pytest.fixture(scope="module")
def fleet(account, before):
    """The account after site.yml has run once."""
    account.first = account.play("site").succeeded()
    return account


def test_a_second_run_changes_nothing(fleet):
    again = fleet.play("site").succeeded()
    assert (again.changed, again.failed) == (0, 0), again.output
    assert fleet.first.changed > 20


def test_no_security_group_lets_the_world_in(fleet):
    groups = fleet.client("ec2").describe_security_groups()["SecurityGroups"]
    ours = {group["GroupName"]: group for group in groups if group["GroupName"].startswith("pixelherd-")}
    assert set(ours) == {"pixelherd-demo-admin", "pixelherd-demo-broker", "pixelherd-demo-worker"}

    def admitted(name):
        rules = ours[name]["IpPermissions"]
        assert all(not rule.get("Ipv6Ranges") and not rule.get("PrefixListIds") for rule in rules)
        addresses = {(rule["FromPort"], one["CidrIp"]) for rule in rules for one in rule["IpRanges"]}
        return addresses | {(rule["FromPort"], one["GroupId"]) for rule in rules for one in rule["UserIdGroupPairs"]}

    assert admitted("pixelherd-demo-admin") == {(22, "203.0.113.7/32")}
    assert admitted("pixelherd-demo-broker") == {(6379, ours["pixelherd-demo-worker"]["GroupId"])}
    assert admitted("pixelherd-demo-worker") == set()
    for group in ours.values():
        ports = {rule.get("FromPort") for rule in group["IpPermissionsEgress"]}
        assert ports <= {80, 443, 6379}, "a way out that nothing needs"


def test_the_bucket_is_encrypted_private_and_tls_only(fleet):
    s3 = fleet.client("s3")
    (rule,) = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    blocked = s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert blocked
    assert all(blocked.values())
    (owner,) = s3.get_bucket_ownership_controls(Bucket=BUCKET)["OwnershipControls"]["Rules"]
    assert owner["ObjectOwnership"] == "BucketOwnerEnforced"
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=BUCKET)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    rules = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert {rule["ID"] for rule in rules} == {"unfinished-uploads", "cheaper"}


def test_the_brokers_machine_has_an_encrypted_disk_and_answers_only_imdsv2(fleet):
    found = fleet.client("ec2").describe_instances(Filters=[{"Name": "tag:Name", "Values": ["pixelherd-demo-broker"]}])
    (machine,) = found["Reservations"][0]["Instances"]
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    assert machine["IamInstanceProfile"]["Arn"].endswith("pixelherd-demo-broker")
    assert {group["GroupName"] for group in machine["SecurityGroups"]} == {
        "pixelherd-demo-admin",
        "pixelherd-demo-broker",
    }


def test_the_builder_is_gone_and_its_image_is_ours(fleet):
    ec2 = fleet.client("ec2")
    reservations = ec2.describe_instances(Filters=[{"Name": "tag:Name", "Values": ["pixelherd-demo-builder"]}])
    states = [one["State"]["Name"] for held in reservations["Reservations"] for one in held["Instances"]]
    assert states == ["terminated"]
    (image,) = ec2.describe_images(Filters=[{"Name": "tag:pixelherd:fleet", "Values": [FLEET]}])["Images"]
    assert re.fullmatch(r"pixelherd-demo-worker-[0-9a-f]{12}", image["Name"])


def test_the_template_of_a_worker_holds_no_secret_and_asks_for_imdsv2(fleet):
    versions = fleet.client("ec2").describe_launch_template_versions(LaunchTemplateName="pixelherd-demo-worker")
    (version,) = versions["LaunchTemplateVersions"]
    data = version["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert str(data["MetadataOptions"]["HttpPutResponseHopLimit"]) == "1"
    assert "UserData" not in data or not data["UserData"]
    assert "KeyName" not in data, "nobody logs in to a worker"
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] in (True, "true", "True")
    assert "InstanceMarketOptions" not in data, "AWS refuses it in a mixed group"


def test_the_group_is_spot_and_mixed_from_none_to_many(fleet):
    scaling = fleet.client("autoscaling")
    (group,) = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
    assert (group["MinSize"], group["DesiredCapacity"], group["MaxSize"]) == (0, 0, 20)
    assert group["CapacityRebalance"] is True
    mixed = group["MixedInstancesPolicy"]
    assert len(mixed["LaunchTemplate"]["Overrides"]) >= 4
    spread = mixed["InstancesDistribution"]
    assert str(spread["OnDemandPercentageAboveBaseCapacity"]) == "0"
    assert spread["SpotAllocationStrategy"] == "price-capacity-optimized"
    (hook,) = scaling.describe_lifecycle_hooks(AutoScalingGroupName=GROUP)["LifecycleHooks"]
    assert hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
    assert (hook["HeartbeatTimeout"], hook["DefaultResult"]) == (300, "CONTINUE")


def test_the_group_follows_the_backlog_and_is_woken_and_put_to_sleep_by_alarms(fleet):
    policies = fleet.client("autoscaling").describe_policies(AutoScalingGroupName=GROUP)["ScalingPolicies"]
    by_name = {policy["PolicyName"].removeprefix("pixelherd-demo-"): policy for policy in policies}
    assert set(by_name) == {"follow", "wake", "sleep"}
    target = by_name["follow"]["TargetTrackingConfiguration"]
    assert target["TargetValue"] == 600
    assert target["CustomizedMetricSpecification"]["MetricName"] == "BacklogSecondsPerWorker"
    assert target["CustomizedMetricSpecification"]["Dimensions"] == [{"Name": "Fleet", "Value": FLEET}]
    alarms = fleet.client("cloudwatch").describe_alarms()["MetricAlarms"]
    acts = {alarm["AlarmName"].removeprefix("pixelherd-demo-"): alarm["AlarmActions"] for alarm in alarms}
    assert acts == {name: [by_name[name]["PolicyARN"]] for name in ("wake", "sleep")}


# parliament 1.6 asks pkg_resources for two of its files; setuptools no longer has that module.
PARLIAMENT = """
import sys, types
from pathlib import Path
from importlib.util import find_spec
def resource_filename(package, name):
    return str(Path(find_spec(package).origin).parent / name)
sys.modules["pkg_resources"] = types.SimpleNamespace(resource_filename=resource_filename)
import parliament
print([str(found) for found in parliament.analyze_policy_string(sys.argv[1]).findings])
"""


def policy(fleet, who):
    return fleet.client("iam").get_role_policy(RoleName=f"pixelherd-demo-{who}", PolicyName=who)["PolicyDocument"]


@pytest.mark.parametrize("who", ["worker", "broker"])
def test_rights_are_few_and_clean(fleet, who):
    present("parliament")
    # In a process of its own: it leaves files open, which is an error here.
    command = [sys.executable, "-c", PARLIAMENT, json.dumps(policy(fleet, who))]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout) == (0, "[]\n"), checked.stdout + checked.stderr
    for statement in policy(fleet, who)["Statement"]:
        actions, resources = statement["Action"], statement["Resource"]
        assert statement["Effect"] == "Allow"
        assert not [action for action in actions if "*" in action]
        if resources == "*":
            assert statement["Condition"], "a star alone"
            assert set(actions) <= {"cloudwatch:PutMetricData", "autoscaling:DescribeAutoScalingGroups"}


def test_a_worker_may_do_its_work_and_nothing_else(fleet):
    allowed = {action for statement in policy(fleet, "worker")["Statement"] for action in statement["Action"]}
    assert allowed == {
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "ssm:GetParameter",
        "autoscaling:CompleteLifecycleAction",
        "autoscaling:RecordLifecycleActionHeartbeat",
        "autoscaling:SetInstanceProtection",
    }
    by_name = {statement["Sid"]: statement["Resource"] for statement in policy(fleet, "worker")["Statement"]}
    assert by_name["ReadImages"] == [f"arn:aws:s3:::{BUCKET}/images/*"]
    assert by_name["WriteResults"] == f"arn:aws:s3:::{BUCKET}/results/*"
    assert by_name["OwnLifeCycle"].endswith(f"autoScalingGroupName/{GROUP}")
    assert by_name["ReadItsSettings"].endswith(f":{ACCOUNT}:parameter/pixelherd/demo/worker/*")


def test_the_private_key_and_its_directory_are_their_owners_alone(fleet):
    directory = fleet.home / ".pixelherd" / FLEET
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "key.pem").stat().st_mode) == 0o600
    assert "PRIVATE KEY" in (directory / "key.pem").read_text(encoding="utf-8")


def test_secrets_are_encrypted_parameters_and_in_no_output(fleet):
    parameters = fleet.client("ssm").describe_parameters()["Parameters"]
    ours = {one["Name"].removeprefix("/pixelherd/demo/"): one["Type"] for one in parameters if FLEET in one["Name"]}
    assert ours == dict.fromkeys(("broker-password", "flower-password", "worker/settings.toml"), "SecureString")
    for name in ("broker-password", "flower-password"):
        found = fleet.client("ssm").get_parameter(Name=f"/pixelherd/demo/{name}", WithDecryption=True)
        secret = found["Parameter"]["Value"]
        assert re.fullmatch(r"[A-Za-z0-9]{40}", secret)
        assert secret not in fleet.first.output
    key = (fleet.home / ".pixelherd" / FLEET / "key.pem").read_text(encoding="utf-8").splitlines()[1]
    assert key not in fleet.first.output
    assert "5555:127.0.0.1:5555" in fleet.first.output, "the tunnel to Flower is not shown"


def test_a_worker_reads_its_settings_into_private_files(fleet, tmp_path):
    fleet.client("ssm").put_parameter(Name="/pixelherd/demo/worker/broker-ca.pem", Value="a certificate", Type="String")
    script = ROOT / "ansible/roles/worker/files/read_parameters.py"
    command = [sys.executable, script, "--path", "/pixelherd/demo/worker", "--region", REGION, "--directory", tmp_path]
    for _ in range(2):
        ran = subprocess.run(command, env=fleet.env, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broker-ca.pem", "settings.toml"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert 'broker_url = "rediss://' in (tmp_path / "settings.toml").read_text(encoding="utf-8")
    command[3] = "/pixelherd/elsewhere"
    ran = subprocess.run(command, env=fleet.env, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "ParameterNotFound" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_teardown_asks_about_a_full_bucket_before_it_removes_anything(fleet):
    fleet.client("s3").delete_bucket_policy(Bucket=BUCKET)  # moto ignores its condition and refuses every PUT
    fleet.client("s3").put_object(Bucket=BUCKET, Key="results/r1/parts/1.parquet", Body=b"PAR1")
    scaling = fleet.client("autoscaling")
    scaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=2)
    (group,) = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
    busy = group["Instances"][0]["InstanceId"]
    scaling.set_instance_protection(AutoScalingGroupName=GROUP, InstanceIds=[busy], ProtectedFromScaleIn=True)
    standing = holdings(fleet)
    refused = fleet.play("teardown")
    assert refused.returncode != 0
    assert "keep_bucket=true" in refused.output
    assert added(standing, holdings(fleet)) == {}


def test_a_teardown_keeps_the_bucket_on_request_and_nothing_else(fleet, before):
    fleet.play("teardown", "-e", "keep_bucket=true").succeeded()
    assert added(before, holdings(fleet)) == {"buckets": {BUCKET}}
    assert fleet.client("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1


def test_a_teardown_leaves_nothing_and_may_be_run_again(fleet, before):
    removed = fleet.play("teardown", "-e", "keep_bucket=false").succeeded()
    assert removed.changed == 1
    assert added(before, holdings(fleet)) == {}
    again = fleet.play("teardown").succeeded()
    assert again.changed == 0, again.output
