"""Agreement: from a directory of photographs to how far each engine and precision agrees with OpenVINO in float32.

Where the names of the files begin with their class id (n02504013_….jpg), it prints the accuracy of each as well.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Row, print_table
from config.errors import PixelherdError, SettingsError
from config.messages import Engine, Job, Precision
from config.models import MODELS
from config.settings import Settings, read_settings
from producer.demo import find_pictures
from producer.weights import choose_weights
from workers.ahead import Budget
from workers.batch import in_batches
from workers.cnn.classify import top_k
from workers.decode import DecodeLimits, decode_images
from workers.sample import Sample
from workers.workbench import Workbench

#: What everything is compared with.
REFERENCE = (Engine.OPENVINO, Precision.FLOAT32)

COMPARED = (
    (Engine.TENSORFLOW, Precision.FLOAT32),
    (Engine.OPENVINO, Precision.BFLOAT16),
    (Engine.TENSORFLOW, Precision.BFLOAT16),
)

#: To be reached: the largest difference of a score in float32, and the share of the same best class in bfloat16.
GOAL_DIFFERENCE = 1e-4
GOAL_AGREEMENT = 0.99

TOP = 5


@dataclass(frozen=True, slots=True)
class Scored:
    """What one engine in one precision says of the photographs: the best classes and all scores, images first."""

    best: NDArray[np.intp]
    scores: NDArray[np.float32]
    #: For each image the rank of the class that its name tells, where it tells one; TOP and more are "not there".
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """One engine in one precision beside the reference; `reason` says why it could not be compared."""

    engine: str
    precision: str
    reason: str | None = None
    same_best: float | None = None
    largest_difference: float | None = None
    top1: float | None = None
    top5: float | None = None


@click.command()
@click.option("--model", type=click.Choice(sorted(MODELS)), default="efficientnet_lite0", show_default=True)
@click.option("--weights", help="As of `pixelherd submit`.")
@click.option("--image-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Photographs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program, nothing else.")
def main(*, model: str, weights: str | None, image_dir: Path | None, as_json: bool) -> None:
    """Compare engines and precisions on the same photographs."""
    try:
        settings, spec = read_settings(), MODELS[model]
        pictures = list(find_pictures(image_dir).values())
        job = Job(run_id="agreement", model=model, weights=choose_weights(weights, spec, settings), output="s3://none")
        compared = list(compare(job, pictures, settings))
    except PixelherdError as error:
        sys.exit(f"agreement: {error}")
    if as_json:
        print(json.dumps({"model": model, "images": len(pictures), "engines": [asdict(one) for one in compared]}))
    else:
        print_table(f"{model} on {len(pictures)} photographs", [row for one in compared for row in _rows(one)])


def compare(job: Job, pictures: Sequence[Path], settings: Settings) -> Iterator[Agreement]:
    """The reference first, then the others beside it, each in a process of its own."""
    reference = _scored(job, REFERENCE, pictures, settings)
    yield _agreement(REFERENCE, reference, reference)
    for engine_and_precision in COMPARED:
        try:
            scored = _scored(job, engine_and_precision, pictures, settings)
        except SettingsError as error:  # this machine does not have it
            yield Agreement(*engine_and_precision, reason=str(error))
        else:
            yield _agreement(engine_and_precision, scored, reference)


def _scored(job: Job, which: tuple[Engine, Precision], pictures: Sequence[Path], settings: Settings) -> Scored:
    asked = job.model_copy(update={"engine": which[0], "precision": which[1]})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_score, asked, pictures, settings).result()


def _score(job: Job, pictures: Sequence[Path], settings: Settings) -> Scored:
    workbench = Workbench(settings)
    network = workbench.network(job)
    limits = DecodeLimits.of(settings, workbench.decode_threads)
    samples = [Sample(number, path.name, body=path.read_bytes()) for number, path in enumerate(pictures)]
    decoded = [
        sample
        for sample in decode_images(samples, network.spec, limits, Budget(settings.fetched_bytes))
        if sample.pixels is not None
    ]
    batches = [batch.pixels for batch in in_batches(decoded, network.engine.batch_size)]
    scores = np.concatenate([outputs[0] for outputs in network.engine.run(batches)])
    best, _ = top_k(scores, TOP)
    numbers = {label.class_id: number for number, label in enumerate(network.labels)}
    told = [numbers.get(sample.key.partition("_")[0]) for sample in decoded]
    ranks = tuple(
        int(np.argmax(row == number)) if number in row else TOP
        for row, number in zip(best, told, strict=True)
        if number is not None
    )
    return Scored(best, scores, ranks)


def _agreement(which: tuple[Engine, Precision], scored: Scored, reference: Scored) -> Agreement:
    ranks = np.array(scored.ranks)
    return Agreement(
        *which,
        same_best=float(np.mean(scored.best[:, 0] == reference.best[:, 0])),
        largest_difference=float(np.max(np.abs(scored.scores - reference.scores))),
        top1=float(np.mean(ranks == 0)) if len(ranks) else None,
        top5=float(np.mean(ranks < TOP)) if len(ranks) else None,
    )


def _rows(one: Agreement) -> list[Row]:
    name = f"{one.engine} {one.precision}"
    if one.same_best is None or one.largest_difference is None:
        return [Row(name, f"not here: {one.reason}")]
    rows = [Row(name)]
    if (one.engine, one.precision) == REFERENCE:
        rows = [Row(f"{name}: what the others are compared with")]
    elif one.precision == Precision.FLOAT32:
        reached = "yes" if one.largest_difference <= GOAL_DIFFERENCE else "no"
        rows.append(
            Row("  largest difference", f"{one.largest_difference:.1e}", f"at most {GOAL_DIFFERENCE}: {reached}")
        )
        rows.append(Row("  same best class", f"{one.same_best:.1%}"))
    else:
        reached = "yes" if one.same_best >= GOAL_AGREEMENT else "no"
        rows.append(Row("  largest difference", f"{one.largest_difference:.1e}"))
        rows.append(Row("  same best class", f"{one.same_best:.1%}", f"at least {GOAL_AGREEMENT:.0%}: {reached}"))
    if one.top1 is not None and one.top5 is not None:
        rows.append(Row("  accuracy, top-1 and top-5", f"{one.top1:.1%}, {one.top5:.1%}"))
    return rows


if __name__ == "__main__":
    main()
