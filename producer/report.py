"""Report: from a run's record, status and failures to its summary: text for a person, JSON for a program."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import obstore

from config.classes import find_labels
from config.messages import Job, Mode, job_spec
from config.models import ModelSpec
from config.results import ChunkFailure, ChunkPlace, RunRecord, Status
from config.training import PHASES
from producer.accuracy import CLASSES_SHOWN, PAIRS_SHOWN, ClassAccuracy, Evaluation, evaluate_survey
from producer.progress import clock
from producer.records import list_names
from producer.run import OpenRun
from producer.status import RunPoller, RunStatus
from producer.survey import Survey, survey_rows
from producer.trained import TrainingStatus
from producer.translate import s3_errors

#: Failed chunks that are told one by one; the rest are a number.
FAILURES_SHOWN = 10

#: Parts that are read for classes and examples of errors; of a larger run, every k-th. Accuracies read all.
SURVEYED_PARTS = 10_000

#: Epochs that are told one by one.
EPOCHS_SHOWN = 20

#: Modes whose rows are an image's each.
SURVEYED = (Mode.CLASSIFY, Mode.EXTRACT_FEATURES, Mode.EVALUATE, Mode.FINE_TUNE)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run was asked for, how it went, and the first of the chunks that were given up.

    `survey` is what its rows hold, where they were read for it; `evaluation` what labelled ones say of the model.
    """

    record: RunRecord
    status: RunStatus
    failures: tuple[ChunkFailure, ...]
    survey: Survey | None = None
    evaluation: Evaluation | None = None

    @property
    def spec(self) -> ModelSpec:
        """The model, with its published accuracies."""
        return job_spec(self.record.job)

    @property
    def warning(self) -> str | None:
        """What a person must see in red: the classes of random weights mean nothing."""
        weights = self.record.job.weights
        if weights is None or weights.uri != "random":
            return None
        return "RANDOM WEIGHTS: the classes below mean nothing; this run measures speed only"

    def to_json(self) -> str:
        """All of it, for a program."""
        report: dict[str, Any] = {
            "record": self.record.model_dump(mode="json"),
            "status": self.status.to_json(),
            "failures": [failure.model_dump(mode="json") for failure in self.failures],
            "warning": self.warning,
        }
        if self.evaluation is not None:
            report["evaluation"] = self.evaluation.to_json()
        return json.dumps(report, indent=1)

    def to_text(self) -> str:
        """All of it, for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        job, status = self.record.job, self.status
        weights = job.weights.uri if job.weights else "the model's own"
        if self.warning:
            yield self.warning
        yield f"run       {status.run_id}: {status.phase.value}"
        yield f"what      {job.mode.value} with {job.model}, weights {weights}, engine {job.engine.value}"
        if job.features is not None and job.training is None:
            asked = job.features
            layers = ", ".join(asked.layers) or "the network's end"
            yield f"features  of {layers}, pool {asked.pool.value}, {asked.dtype.value}"
        yield f"source    {self.record.source} (bucket {self.record.bucket})"
        yield f"results   {status.address}/parts/*.parquet"
        images = f"{status.images:,}" if status.images is not None else f"{status.listed:,} or more"
        yield f"images    {status.done:,} of {images} done, {status.failed:,} given up"
        for ended_as, count in status.counts.items():
            yield f"          {count:>12,} {ended_as.value}"
        yield from self._speed()
        if self.evaluation is not None:
            yield from _accuracy_lines(self.evaluation, self.spec)
        if status.training is not None:
            yield from _training_lines(status.training, status.address)
        yield from self._trouble()
        if self.status.ended:
            yield f"page      {self.status.address}/report.html"

    def _speed(self) -> Iterator[str]:
        status = self.status
        if status.started_at is None:
            return
        rate = f"{status.images_per_s:,.1f} images/s" if status.images_per_s else "no images/s yet"
        wall = f" in {clock((status.ended_at - status.started_at).total_seconds())}" if status.ended_at else ""
        yield f"speed     {rate}{wall}, {status.size_bytes / 1e6:,.1f} MB read, {status.chunks_done:,} chunks"
        stages = ", ".join(f"{stage} {spent:,.1f}" for stage, spent in status.seconds.items())
        yield f"seconds   {stages} (added over all workers)"

    def _trouble(self) -> Iterator[str]:
        if self.status.reason:
            yield f"stopped   {self.status.reason}"
        for failure in self.failures:
            place = ChunkPlace.parse(failure.chunk_id)
            yield f"given up  {failure.chunk_id} ({place.count} images, {failure.tries} tries): {failure.error}"
        if self.status.chunks_failed > len(self.failures):
            yield f"          and {self.status.chunks_failed - len(self.failures):,} more chunks"
        if self.status.chunks_failed or self.status.reason:
            yield f"try again pixelherd resume {self.status.run_id}"
        if self.status.errors:
            rows = f"FROM '{self.status.address}/parts/*.parquet' WHERE status <> '{Status.OK.value}'"
            yield f"errors    SELECT key, status, error {rows}"


def _training_lines(training: TrainingStatus, address: str) -> Iterator[str]:
    """Every epoch, or the last ones of many, and what is left of them."""
    yield f"training  {training.line()}"
    for record in training.done[-EPOCHS_SHOWN:]:
        figures = f"loss {record.loss:.4f}, accuracy {record.accuracy:.4f}"
        found = f"val_loss {record.val_loss:.4f}, val_accuracy {record.val_accuracy:.4f}"
        yield f"          {PHASES[record.phase]} {record.epoch}: {figures}, {found}, {record.seconds:.1f} s"
    if training.summary is not None:
        counts = ", ".join(f"{count:,} {use.value}" for use, count in training.summary.counts.items())
        yield f"classes   {', '.join(training.summary.classes)} ({counts})"
        yield f"model     {address}/model.keras"


def _accuracy_lines(found: Evaluation, spec: ModelSpec) -> Iterator[str]:
    for name, share, published in (("top-1", found.top1, spec.top1), ("top-5", found.top5, spec.top5)):
        beside = f"; published {published:.1f} % on ImageNet" if published else ""
        yield f"{name}     {share} of {share.images:,} images{beside}"
    yield from (f"          {line}" for line in left_out(found))
    if found.calibration_error is not None:
        yield f"sureness  expected calibration error {found.calibration_error:.3f}"
    for number, one in enumerate(found.confusions[:PAIRS_SHOWN]):
        names = f"{found.name(one.label)} ({one.label}) taken for {found.name(one.taken_for)} ({one.taken_for})"
        yield f"{'' if number else 'confused':<9} {one.share.hits:,} of {one.share.images:,} {names}"
    for number, fared in enumerate(worst_classes(found)[:CLASSES_SHOWN]):
        yield f"{'' if number else 'worst':<9} {fared.class_name} ({fared.class_id}) {fared.top1}"


def left_out(found: Evaluation) -> Iterator[str]:
    """What of the images is in no accuracy, and what becomes of top-1 where it is."""
    if failed := sum(found.failed.values()):
        kinds = ", ".join(f"{count:,} {status}" for status, count in sorted(found.failed.items()))
        as_wrong = f"counted as wrong, top-1 is {found.top1_of_all}"
        yield f"left out: {_images(failed)} with a label and an error ({kinds}); {as_wrong}"
    if found.unlabelled:
        yield f"left out: {_images(found.unlabelled)} without a label"
    if unknown := sum(found.unknown.values()):
        example = next((label for label in found.unknown if label), "")
        yield f"left out: {_images(unknown)} whose label names no class of the model, such as {example!r}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def worst_classes(found: Evaluation) -> list[ClassAccuracy]:
    """The classes from the one that fared worst; of equal ones, the one with more images first."""
    return sorted(found.classes, key=lambda one: (one.top1.value or 0.0, -one.top1.images, one.class_id))


def make_report(run: OpenRun, status: RunStatus | None = None, *, survey: bool = False) -> RunReport:
    """The report of a run at this moment; rows are read for a `survey`, and for accuracies in any case."""
    job = run.record.job
    status = status or RunPoller(run).poll()
    names = list_names(run.store, run.address.failures) if status.chunks_failed else iter(())
    failures = [_read_failure(run, name) for name in islice(names, FAILURES_SHOWN)]
    if job.mode not in SURVEYED or not (survey or job.mode is Mode.EVALUATE):
        return RunReport(run.record, status, tuple(failures))
    found = survey_rows(run, None if job.mode is Mode.EVALUATE else SURVEYED_PARTS)
    evaluation = evaluate_survey(found, class_names(job)) if job.mode is Mode.EVALUATE else None
    return RunReport(run.record, status, tuple(failures), found, evaluation)


def class_names(job: Job) -> dict[str, str]:
    """Names of the model's classes by their ids; nothing for an own file, whose rows have them."""
    spec = job_spec(job)
    return {} if spec.default_weights == "file" else {label.class_id: label.class_name for label in find_labels(spec)}


def _read_failure(run: OpenRun, name: str) -> ChunkFailure:
    key = run.address.failure_key(name)
    with s3_errors(f"read {key}"):
        return ChunkFailure.from_json(bytes(obstore.get(run.store, key).bytes()))
