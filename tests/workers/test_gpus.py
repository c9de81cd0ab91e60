"""One process for each GPU, as far as a machine without one can tell: what is listed, and what a child then sees."""

import subprocess
import sys
from pathlib import Path

import pytest

from config.clients import make_celery
from config.messages import Engine
from config.settings import Settings
from workers.gpus import LISTED, VISIBLE, find_gpus, give_each_process_a_gpu

#: In a process of its own: it forks, as a worker does.
POOL = """
import os, time
from billiard import Pool, current_process
from workers.gpus import take_gpu

def see(_):
    time.sleep(0.1)
    return current_process().index, os.environ["CUDA_VISIBLE_DEVICES"]

if __name__ == "__main__":
    with Pool(4, initializer=take_gpu, initargs=(["0", "1"],)) as pool:
        print(sorted(set(pool.map(see, range(32), chunksize=1))))
"""


def test_gpus_are_those_that_the_driver_lists_or_that_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert find_gpus(tmp_path) == []
    for place in ("0000:00:1e.0", "0000:00:1f.0"):
        (tmp_path / LISTED / place).mkdir(parents=True)
    assert find_gpus(tmp_path) == ["0", "1"]
    monkeypatch.setenv(VISIBLE, "3,GPU-8f3c")
    assert find_gpus(tmp_path) == ["3", "GPU-8f3c"]
    monkeypatch.setenv(VISIBLE, "")
    assert find_gpus(tmp_path) == []


@pytest.mark.parametrize(
    ("visible", "settings", "processes"),
    [
        ("0,1,2", {"engine": Engine.TENSORFLOW}, 3),
        ("0,1,2", {"engine": Engine.TENSORFLOW, "worker_processes": 6}, 6),
        ("0,1,2", {"engine": Engine.OPENVINO}, 2),
        ("", {"engine": Engine.TENSORFLOW}, 2),
    ],
)
def test_a_worker_has_one_process_for_each_gpu(
    visible: str, settings: dict[str, object], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    given = Settings.model_validate(settings)
    with make_celery(given) as app:
        give_each_process_a_gpu(app, given)
        assert app.conf.worker_concurrency == processes


def test_each_process_sees_its_own_gpu_alone() -> None:
    ran = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.strip() == "[(0, '0'), (1, '1'), (2, '0'), (3, '1')]", ran.stderr
