"""Nothing grows: memory, descriptors, threads, files and Redis, over many chunks and over images that are huge."""

import re
import struct
from importlib.util import find_spec
from pathlib import Path

import obstore
import psutil
from PIL import Image

import producer
from benchmarks.herd import WORKER_STOP
from config.clients import make_redis
from producer.local_stack import child_environment, worker_command, worker_name, write_config
from producer.processes import Program, starting
from tests.conftest import require
from tests.images import bomb, encoded, noise
from tests.integration.cage import caged
from tests.integration.looks import PATIENCE_S
from tests.mutants import png

LIMIT_BYTES = 2 * 2**30

#: Side of a hundred megapixels.
SIDE = 10_000

#: Chunks of one tiny image each.
CHUNKS = 500

#: MB by which a process may differ from quarter to quarter: glibc gives memory back when it likes to.
NOISE_MB = 24.0

#: All that Redis holds when runs are over and a worker waits: kombu's bindings and mutex, what the workers agreed on.
FIXED_KEYS = re.compile(
    r"^(_kombu\.binding(_permanent)?\.(test-\w+(\.now)?|celeryev|celery\.pidbox|reply\.celery\.pidbox)"
    r"|_kombu\.binding_deadlines|unacked_mutex|pixelherd:visibility_timeout)$"
)


def _png(colour: int, bands: int) -> bytes:
    """100 megapixels of one row again and again, in 2 MB."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, colour, 0, 0, 0)
    return png(header, [b"\0" + bytes(range(bands)) * SIDE] * SIDE)


def _huge() -> dict[str, tuple[bytes, str]]:
    """Key -> a file of 100 megapixels, or of 900, and the status that its row must have."""
    flat = Image.new("RGB", (SIDE, SIDE), (200, 30, 60))
    alpha, progressive = _png(6, 4), encoded(flat, progressive=True, subsampling=0)
    return {
        "in/0-alpha.png": (alpha, "ok"),
        "in/1-progressive.jpg": (progressive, "ok"),
        "in/2.tif": (encoded(flat, "TIFF", compression="tiff_lzw"), "ok"),
        "in/3-alpha.png": (alpha, "ok"),
        "in/4-progressive.jpg": (progressive, "ok"),
        "in/5.jpg": (encoded(flat), "ok"),
        "in/6-bomb.png": (bomb(), "too_large"),
        "in/7.webp": (encoded(flat, "WEBP", lossless=True, method=0, quality=0), "too_large"),
        "in/8.jpg": (noise(1), "ok"),
    }


def _needs_worker() -> None:
    for package in ("keras", "openvino", "PIL"):
        require(find_spec(package), package)


def test_huge_images_pass_through_a_worker_that_has_two_gigabytes(settings, store, bucket, tmp_path):
    _needs_worker()
    planted = _huge()
    for key, (body, _) in planted.items():
        obstore.put(store, key, body)
    settings = settings.model_copy(update={"worker_processes": 2, "chunk_size": 3})
    config, name, log = write_config(settings, tmp_path / "worker.toml"), worker_name(), tmp_path / "worker.log"
    command = worker_command(settings, name)
    with caged(LIMIT_BYTES) as cage:
        command = cage.command(command) if cage else command
        program = Program("the worker", command, child_environment(config), log, stop=WORKER_STOP)
        with starting(program) as child:
            run = producer.submit("classify", f"s3://{bucket}/in/", settings=settings)
            run.wait(timeout_s=PATIENCE_S)
            rows = {row["key"]: row["status"] for row in run.results(["key", "status"]).to_pylist()}
            assert rows == {key: status for key, (_, status) in planted.items()}, log.read_text()[-3000:]
            peak = cage.peak_bytes() if cage else _peaks(child.pid)
            assert (cage.kills() if cage else 0) == log.read_text().count("SIGKILL") == 0
            assert peak < LIMIT_BYTES, f"{peak / 2**20:.0f} MB"


def _peaks(pid: int) -> int:
    """Where this user may make no cgroup: the peaks of all processes together, which nobody held to anything."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    found = [Path(f"/proc/{process.pid}/status").read_text() for process in processes]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in found) * 1024


def test_five_hundred_chunks_leave_nothing_behind(settings, store, bucket, worker, tmp_path, monkeypatch):
    _needs_worker()
    files = tmp_path / "temporary"
    files.mkdir()
    monkeypatch.setenv("TMPDIR", str(files))
    for number in range(CHUNKS):
        obstore.put(store, f"in/{number:04d}.jpg", noise(number % 8))
    child = worker(engine_threads=1, batch_size=1)  # a network that fills a batch computes eight for each one
    settings = settings.model_copy(update={"chunk_size": 1})
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=settings)
    looks: list[tuple[int, float, int, int]] = []
    status = run.wait(timeout_s=PATIENCE_S, show=lambda now: looks.append((now.chunks_done, *_size(child.pid))))
    looks.append((status.chunks_done, *_size(child.pid)))
    assert status.counts == {"ok": CHUNKS}

    quarters = [[look for look in looks if low < look[0] <= low + CHUNKS // 4] for low in (125, 250, 375)]
    assert all(quarters), looks
    memory, descriptors, threads = (
        [max(look[field] for look in quarter) for quarter in quarters] for field in (1, 2, 3)
    )
    assert memory[-1] <= memory[0] + NOISE_MB, looks
    assert descriptors[-1] <= descriptors[0] + 4, looks
    assert threads[-1] <= threads[0] + 4, looks
    assert [path for path in files.rglob("*") if path.is_file()] == []
    assert list(settings.cache_dir.rglob("*.part")) == []
    with make_redis(settings) as client:
        left = {key.decode() for key in client.scan_iter()}
    assert {key for key in left if not FIXED_KEYS.match(key)} == set()


def _size(pid: int) -> tuple[float, int, int]:
    """MB, descriptors and threads of a worker with its processes."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    memory = sum(process.memory_info().rss for process in processes) / 2**20
    return memory, sum(process.num_fds() for process in processes), sum(process.num_threads() for process in processes)
