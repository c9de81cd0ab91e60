"""Session: from a training's step to the network that trains in this process, and the examples that it sees.

The network is built once for each phase; what training changes comes from the checkpoint of the epoch before, always,
so that it makes no difference which process trains which epoch.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from config.features import column_names
from config.messages import Job
from config.results import RunAddress
from config.steps import TrainingStep
from config.training import FROZEN, GROUPS, POOLED
from workers.cnn.engines.tensorflow import start_tensorflow
from workers.cnn.finetune import Trainee, make_trainee
from workers.cnn.loader import load_network
from workers.decode import DecodeLimits
from workers.examples import Drawing, Examples, PictureExamples, Reading, StoredExamples
from workers.fetch import FetchLimits
from workers.trainset import TrainSet, find_train_set, read_columns
from workers.workbench import Workbench

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """What one process needs for the epochs of one phase of one training."""

    run_id: str
    phase: int
    images: TrainSet
    trainee: Trainee
    examples: Examples

    def suits(self, step: TrainingStep) -> bool:
        return (self.run_id, self.phase) == (step.job.run_id, step.phase)


def open_session(step: TrainingStep, bench: Workbench) -> Session:
    """Build the network and find the examples; RowsPending where some images have no row yet."""
    run = RunAddress.of(step.job.output, step.job.run_id)
    images = find_train_set(step, bench.store(run.bucket))
    start_tensorflow(bench.cores)
    recipe = bench.recipe(step.job)
    network = load_network(recipe.spec, recipe.weights)
    trainee = make_trainee(network, recipe.spec, len(images.classes), step.training, step.phase)
    logger.info("run=%s phase=%d classes=%d images=%s", run.run_id, step.phase, len(images.classes), images.counts())
    return Session(run.run_id, step.phase, images, trainee, _find_examples(step, bench, images))


def _find_examples(step: TrainingStep, bench: Workbench, images: TrainSet) -> Examples:
    options = step.training
    drawing = Drawing(options.seed, options.batch_size)
    kinds = options.augmentations(step.phase)
    if not kinds:
        return StoredExamples(images, _reader(step, bench), drawing)
    settings = bench.settings
    reading = Reading(
        open_key=bench.opener(step.bucket),
        spec=bench.recipe(step.job).spec,
        fetching=FetchLimits(settings.fetch_threads, settings.max_image_bytes),
        decoding=DecodeLimits.of(settings, bench.decode_threads),
        fetched_bytes=settings.fetched_bytes,
    )
    return PictureExamples(images, reading, drawing, kinds)


def _reader(step: TrainingStep, bench: Workbench) -> Any:
    """Reads, of a chunk's part, the features that a phase begins with."""
    run = RunAddress.of(step.job.output, step.job.run_id)
    results, column = bench.store(run.bucket), feature_column(step.job, step.phase)

    def read(chunk_id: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return to_features(read_columns(results, run.part_key(chunk_id), ("status", column)), column)

    return read


def feature_column(job: Job, phase: int) -> str:
    """The column of a run's rows that holds what a phase begins with."""
    assert job.features is not None  # noqa: S101 - a job of mode fine_tune always has them
    wanted = FROZEN if phase == GROUPS else POOLED
    return dict(zip(job.features.layers, column_names(job.features), strict=True))[wanted]


def to_features(table: pa.Table, column: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The tensors of a column, images first, and which of the rows have one."""
    if column not in table.column_names:  # no image of the chunk has a result, and nobody knew the shape
        return np.empty((0,), np.float32), np.zeros(table.num_rows, np.bool_)
    tensors = table[column].combine_chunks()
    storage, shape = tensors.storage, tuple(tensors.type.shape)
    # `flatten` passes over the rows that are null.
    values = storage.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
    return values, storage.is_valid().to_numpy(zero_copy_only=False)
