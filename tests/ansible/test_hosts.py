"""The roles on machines with systemd, reached over SSH: a run through them, and a machine that AWS takes away.

Real: Debian, systemd and its units, SSH, Redis with TLS, Flower, two workers, the network between them, S3
(SeaweedFS). Stand-ins: the Parameter Store and the group (moto), the metadata service, and the libraries, which are
laid where pip would have put them. Nothing of it is AWS.
"""

import base64
import json
import shlex
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import obstore
import pytest

import producer
from config.clients import make_redis, make_store
from config.custody import CUSTODY_PREFIX
from config.settings import Settings, read_settings
from producer.ports import free_ports
from tests.ansible.machines import Machine
from tests.ansible.roll_out import FLOWER_PASSWORD, PARAMETERS, beyond_aws, running_site
from tests.ansible.site import BUCKET, Site
from tests.images import noise
from tests.test_compose import present
from workers.drain import DRAINED_EXIT_CODE, SPOT_RESERVE_S
from workers.metadata import SPOT, TARGET_STATE

present("moto")
present("ansible")
pytestmark = pytest.mark.timeout(1200)

IMAGES = 96
CHUNK = 8

#: Seconds for anything that a test waits for.
PATIENCE_S = 180

#: What S3 takes for each answer: long enough that a chunk is in hand when somebody looks, and then that it stays there.
SLOW_S = 0.4
SLOWER_S = 10.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def settings(site: Site) -> Settings:
    """Those of a person who has the broker's certificate and is in its network."""
    certificate = site.path / "broker-ca.pem"
    given = {name: site.client("ssm").get_parameter(Name=f"{PARAMETERS}/worker/{name}", WithDecryption=True)
             for name in ("settings.toml", "broker-ca.pem")}  # fmt: skip
    certificate.write_text(given["broker-ca.pem"]["Parameter"]["Value"], encoding="utf-8")
    told = given["settings.toml"]["Parameter"]["Value"].replace("/run/pixelherd/broker-ca.pem", str(certificate))
    url = next(line.split('"')[1] for line in told.splitlines() if line.startswith("broker_url"))
    return read_settings(**site.s3.model_dump(exclude={"broker_url"}), broker_url=url)


def wait_until(true: Callable[[], object], what: str, site: Site) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come\n" + "\n".join(map(journal, site.workers))
        time.sleep(0.1)


def journal(machine: Machine) -> str:
    return machine.inside("journalctl", "--unit=pixelherd-worker", "--no-pager", "--output=cat")


def is_ready(machine: Machine) -> bool:
    return " ready." in journal(machine)


def unit(machine: Machine, name: str) -> dict[str, str]:
    asked = "--property=ActiveState,ExecMainStatus,NRestarts,Result"
    return dict(line.split("=", 1) for line in machine.inside("systemctl", "show", asked, name).splitlines())


def hands(settings: Settings, machine: Machine) -> dict[str, int]:
    """Chunks that this machine has in hand, and how many processes died of each before."""
    processes = machine.inside("readlink", "/proc/1/ns/pid").strip()
    with make_redis(settings) as client:
        held = [pair for key in client.scan_iter(f"{CUSTODY_PREFIX}*") for pair in client.hgetall(key).items()]
    words = {chunk.decode(): value.decode().split() for chunk, value in held}
    return {chunk: int(deaths) for chunk, (holder, deaths, _) in words.items() if processes in holder}


def tell(machine: Machine, name: str, value: str) -> None:
    """From now on the machine's metadata say this."""
    assert machine.metadata
    file = machine.metadata / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".new").write_text(value, encoding="utf-8")
    file.with_suffix(".new").replace(file)


def test_every_unit_runs_with_the_machine(site: Site) -> None:
    for name in ("redis-server@pixelherd", "pixelherd-flower"):
        assert unit(site.broker, name)["ActiveState"] == "active", name
    assert unit(site.broker, "redis-server")["ActiveState"] == "inactive", "the one without a password"
    assert site.broker.inside("systemctl", "is-enabled", "pixelherd-autoscale").strip() == "enabled"
    for worker in site.workers:
        wait_until(partial(is_ready, worker), "a worker", site)
        assert unit(worker, "pixelherd-worker") == {
            "ActiveState": "active", "ExecMainStatus": "0", "NRestarts": "0", "Result": "success"
        }  # fmt: skip


def test_flower_answers_through_the_tunnel_and_asks_for_its_login(site: Site) -> None:
    (port,) = free_ports(1)
    tunnel = subprocess.Popen(site.ssh(site.broker, "-N", "-L", f"{port}:127.0.0.1:5555"))
    try:
        login = base64.b64encode(f"pixelherd:{FLOWER_PASSWORD}".encode()).decode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/workers?json=1&refresh=1")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask() -> tuple[int, str]:
            try:
                with opener.open(request, timeout=30) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, ""
            except OSError:  # the tunnel is not there yet
                return 0, ""

        wait_until(lambda: ask()[0], "an answer", site)
        assert ask() == (401, "")
        request.add_header("Authorization", f"Basic {login}")
        wait_until(lambda: all(f"@{worker.name}" in ask()[1] for worker in site.workers), "both workers", site)
    finally:
        tunnel.terminate()
        tunnel.wait(10)


def test_a_run_loses_no_image_when_a_machine_is_taken_away(site: Site, settings: Settings) -> None:
    keys = [f"images/{number:03d}.jpg" for number in range(IMAGES)]
    store = make_store(settings, BUCKET)
    for number, key in enumerate(keys):
        obstore.put(store, key, noise(number))
    leaving, staying = site.workers
    site.s3_proxy.delay_s = SLOW_S
    program = ["env", "PIXELHERD_CONFIG=/etc/pixelherd/settings.toml"]
    program += [f"{name}={value}" for name, value in beyond_aws(site).items()]
    program += ["/opt/pixelherd/venv/bin/pixelherd", "submit", "classify", f"s3://{BUCKET}/images/"]
    program += ["--chunk-size", str(CHUNK)]
    command = [*site.ssh(site.broker), shlex.join(["sudo", "-u", "pixelherd", *program])]
    log = site.path / "submit.log"
    with log.open("wb") as written:
        submitted = subprocess.Popen(command, stdout=written, stderr=written, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: all(hands(settings, worker) for worker in site.workers), "work for both machines", site)
        site.s3_proxy.delay_s = SLOWER_S
        wait_until(lambda: hands(settings, leaving), "a chunk that takes long", site)
        end = datetime.now(UTC) + timedelta(seconds=SPOT_RESERVE_S + 8)
        tell(leaving, SPOT, json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")}))
        wait_until(lambda: "drain=deadline" in journal(leaving), "the end of the grace", site)
        wait_until(lambda: not hands(settings, leaving), "empty hands", site)
        wait_until(lambda: unit(leaving, "pixelherd-worker")["ActiveState"] == "inactive", "the worker's end", site)
        assert datetime.now(UTC) < end
        site.s3_proxy.delay_s = 0.0
        assert submitted.wait(PATIENCE_S) == 0, log.read_text(encoding="utf-8")
    finally:
        site.s3_proxy.delay_s = 0.0
        submitted.kill()
    assert unit(leaving, "pixelherd-worker")["ExecMainStatus"] == str(DRAINED_EXIT_CODE)
    assert unit(leaving, "pixelherd-worker")["NRestarts"] == "0"
    assert "drain=told why=spot" in journal(leaving)
    assert len(site.members()) == 1, "the life-cycle action was not completed"
    (run,) = obstore.list_with_delimiter(store, "results/")["common_prefixes"]
    rows = producer.open_run(f"s3://{BUCKET}/{run}", settings=settings).results(["key", "status"]).to_pylist()
    assert Counter(row["key"] for row in rows) == dict.fromkeys(keys, 1)
    assert {row["status"] for row in rows} == {"ok"}
    assert "images=" in journal(staying)


def test_systemd_stops_a_worker_gently_and_a_scale_in_ends_the_last(site: Site) -> None:
    _, staying = site.workers
    staying.inside("systemctl", "stop", "pixelherd-worker", timeout_s=PATIENCE_S)
    assert unit(staying, "pixelherd-worker")["Result"] == "success"
    assert "drain=started why=signal" in journal(staying)
    assert len(site.members()) == 1
    staying.inside("systemctl", "start", "pixelherd-worker", timeout_s=PATIENCE_S)
    wait_until(lambda: journal(staying).count(" ready") == 2, "the worker", site)
    tell(staying, TARGET_STATE, "Terminated")
    wait_until(lambda: unit(staying, "pixelherd-worker")["ActiveState"] == "inactive", "the worker's end", site)
    assert "drain=told why=scale_in" in journal(staying)
    assert site.members() == {}
