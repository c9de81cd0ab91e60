"""GPUs: from what the NVIDIA driver lists to a worker with one process for each GPU, which sees its own and no other.

TensorFlow takes every GPU that it sees, and two processes on one compute no faster than one.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from billiard import current_process
from celery import Celery, signals

from config.messages import Engine
from config.settings import Settings
from workers.cnn.engines.capabilities import resolve_engine

#: One directory for each GPU, there as soon as the driver is loaded.
LISTED = "proc/driver/nvidia/gpus"

#: CUDA's own: the GPUs that a process may see. One that somebody set says which ones are ours.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def find_gpus(root: Path = Path("/")) -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name]
    return [str(number) for number, _ in enumerate((root / LISTED).glob("*"))]


def give_each_process_a_gpu(app: Celery, settings: Settings) -> None:
    """From now on this worker has as many processes as there are GPUs (or as the settings say), each with one."""
    gpus = find_gpus()
    if not gpus or resolve_engine(settings.engine) is not Engine.TENSORFLOW:
        return
    if settings.worker_processes is None:
        app.conf.worker_concurrency = len(gpus)

    def on_child(**_: Any) -> None:
        take_gpu(gpus)

    signals.worker_process_init.connect(on_child, weak=False)


def take_gpu(gpus: Sequence[str]) -> None:
    """In a pool process, before TensorFlow: a process that takes another one's place takes its GPU as well."""
    os.environ[VISIBLE] = gpus[current_process().index % len(gpus)]
