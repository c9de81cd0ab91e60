"""Peer: from a peer's interpreter and script to how fast it takes the same images from the same S3 server."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import Request
from benchmarks.photographs import BUCKET
from config.settings import Settings
from workers.cnn.registry import KERAS_FUNCTIONS

SCRIPTS = Path(__file__).parent / "peers"

#: Seconds; a peer that needs more for a thousand images is stuck.
TIMEOUT_S = 1_800


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """One run of a peer, its start included: from before its interpreter starts until its Parquet is written."""

    images: int
    seconds: float
    #: By its own clock: after the first batch, until the last one.
    steady_images_per_s: float | None
    versions: dict[str, str]

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def why_not(python: Path | None, model: str) -> str:
    """Why the peer is not run; empty where it can be."""
    if python is None:
        return "no --peer"
    return "" if model in KERAS_FUNCTIONS else f"keras.applications has no {model}"


def measure_ray_keras(python: Path, request: Request, settings: Settings) -> PeerFigures:
    """Ray Data with Keras in float32 on this machine's cores: the same images, Parquet into the same server."""
    command = [
        *(str(python), str(SCRIPTS / "ray_keras.py"), "--model", request.model, "--images", str(request.images)),
        *("--endpoint", str(settings.s3_endpoint_url), "--source", request.source.removeprefix("s3://")),
        *("--output", f"{BUCKET}/ray_keras/"),
    ]
    began = time.time()  # the same clock as the script's
    done = subprocess.run(
        command, env=_environment(settings), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if said["images"] != request.images:
        raise RuntimeError(f"the peer wrote {said['images']} rows for {request.images} images")
    return PeerFigures(request.images, said["written_at"] - began, said["steady_images_per_s"], said["versions"])


def _environment(settings: Settings) -> dict[str, str]:
    secret = settings.s3_secret_access_key
    return {
        **os.environ,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else "",
    }
