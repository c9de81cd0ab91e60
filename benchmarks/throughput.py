"""Throughput: from photographs to one table: each stage alone, end to end, a peer, and the worker's memory.

All of it in one run on one machine, against real servers that are started for it. Every figure is measured here.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.alone import Bench, measure_alone
from benchmarks.end_to_end import Request, measure_end_to_end
from benchmarks.machine import describe_machine
from benchmarks.peer import measure_ray_keras, why_not
from benchmarks.photographs import (
    BUCKET,
    COMPARED,
    COMPARED_SOURCE,
    RESULTS,
    SOURCE,
    WARM_UP,
    WARM_UP_SOURCE,
    upload_copies,
)
from benchmarks.sweep import parse_varied, sweep
from benchmarks.table import (
    Row,
    print_table,
    rows_of_alone,
    rows_of_end_to_end,
    rows_of_memory,
    rows_of_peer,
    rows_of_sweep,
)
from config.errors import PixelherdError
from config.messages import Job, Weights
from config.models import MODELS, ModelSpec
from config.settings import Settings, read_settings
from producer.demo import find_pictures
from producer.ports import LOOPBACK
from producer.servers import Server, running_s3
from producer.weights import choose_weights

#: Images whose stages are measured alone, at most.
ALONE_IMAGES = 200

#: The model for which the memory of a worker has a goal.
MEMORY_MODEL = "resnet50"

IMAGE_DIR = click.Path(exists=True, file_okay=False, path_type=Path)
PYTHON = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Stage:
    """What everything is measured on: photographs in an S3 server of this machine, a model and its weights."""

    directory: Path
    s3: Server
    settings: Settings
    keys: tuple[str, ...]
    spec: ModelSpec
    weights: Weights

    def request(self, source: str, images: int) -> Request:
        """A run over the first `images` keys, which lie under `source`."""
        return Request(source, min(images, len(self.keys)), self.spec.name, self.weights.uri)


@click.command()
@click.option("--model", type=click.Choice(sorted(MODELS)), default="resnet50", show_default=True)
@click.option("--weights", help="As of `pixelherd submit`. Default: packaged ones, or else random.")
@click.option("--images", type=click.IntRange(16), default=1000, show_default=True, help="Keys of the warm run.")
@click.option("--image-dir", type=IMAGE_DIR, help="Photographs to copy. Default: the demo's samples.")
@click.option("--peer", type=PYTHON, help="Interpreter that has benchmarks/peers/requirements.txt.")
@click.option("--sweep", "varied", multiple=True, help="SETTING=V,V: compare values of settings instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program, nothing else.")
def main(*, peer: Path | None, varied: tuple[str, ...], as_json: bool, **of_what: Any) -> None:
    """Measure how fast this machine classifies, and what limits it; settings come from PIXELHERD_… variables."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = LOOPBACK  # no proxy in between knows our loopback
    try:
        combinations = parse_varied(varied)
        with prepared(**of_what) as stage:
            machine, model = describe_machine(), {"model": stage.spec.name, "weights": stage.weights.uri}
            if combinations:
                answer, rows = compare_settings(stage, combinations)
            else:
                answer, rows = measure_all(stage, peer)
    except PixelherdError as error:
        sys.exit(f"throughput: {error}")
    if as_json:
        print(json.dumps({**model, "machine": machine, **answer}, indent=1))
    else:
        title = f"{model['model']}, {model['weights']} weights; {machine['cores']} cores of {machine['cpu']}"
        print_table(title, rows)


@contextmanager
def prepared(model: str, weights: str | None, images: int, image_dir: Path | None) -> Iterator[Stage]:
    """Start an S3 server, put the photographs there, and use a cache of networks that is empty."""
    spec = MODELS[model]
    given = weights or ("packaged" if spec.default_weights == "packaged" else "random")
    pictures = list(find_pictures(image_dir).values())
    with tempfile.TemporaryDirectory(prefix="pixelherd-bench-") as name:
        directory = Path(name)
        with running_s3(directory) as s3:
            settings = read_settings(**s3.settings, cache_dir=directory / "cache")
            say(f"uploading {images} copies of {len(pictures)} pictures")
            keys = upload_copies(settings, pictures, images)
            yield Stage(directory, s3, settings, keys, spec, choose_weights(given, spec, settings))


def measure_all(stage: Stage, python: Path | None) -> tuple[dict[str, Any], list[Row]]:
    """Each stage alone, then end to end, then the peer: never two of them at once."""
    say(f"each stage alone, {min(ALONE_IMAGES, len(stage.keys))} images")
    job = Job(run_id="alone", model=stage.spec.name, weights=stage.weights, output=RESULTS)
    alone = measure_alone(Bench(stage.settings, job, BUCKET, stage.keys[:ALONE_IMAGES], stage.s3.child.pid))

    cold, warm = stage.request(COMPARED_SOURCE, COMPARED), stage.request(SOURCE, len(stage.keys))
    say(f"end to end, {cold.images} images with all starts, then {warm.images} through the same worker")
    measured = measure_end_to_end((cold, warm), stage.settings, stage.s3, stage.directory)

    peer, reason = None, why_not(python, stage.spec.name)
    if python is not None and not reason:
        say(f"Ray Data with Keras, {cold.images} images")
        peer = measure_ray_keras(python, cold, stage.settings)

    rows = [
        *rows_of_alone(alone),
        *rows_of_end_to_end(measured, alone),
        *(rows_of_peer(peer, measured, alone) if peer else [Row("Ray Data with Keras", f"not run: {reason}")]),
        *rows_of_memory(measured.memory, goal=stage.spec.name == MEMORY_MODEL),
    ]
    answer = {"alone": asdict(alone), "end_to_end": asdict(measured), "peer": asdict(peer) if peer else None}
    return {**answer, "table": [row._asdict() for row in rows]}, rows


def compare_settings(stage: Stage, varied: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], list[Row]]:
    """Every combination of the values, each with a worker of its own."""
    requests = stage.request(WARM_UP_SOURCE, WARM_UP), stage.request(SOURCE, len(stage.keys))
    answers, rows = [], []
    for measured in sweep(varied, requests, stage.settings, (stage.s3, stage.directory)):
        new = rows_of_sweep(measured)
        say(f"{new[0].what}: {new[0].figure}")
        answers.append(asdict(measured))
        rows += new
    return {"sweep": answers}, rows


def say(text: str) -> None:
    """Tell a person who waits; the table goes to stdout."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
