"""Leave: from the last checkpoint of a training to what its run leaves: the model, its JSON, history and layers."""

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import S3Store

from config.messages import job_spec
from config.own_model import OwnClass, OwnModel
from config.results import RunAddress, with_provenance
from config.steps import TrainingStep
from config.trained import HISTORY_SCHEMA, LAYERS_SCHEMA, EpochRecord, TrainingAddress, TrainingSummary
from config.training import GROUPS, HEAD, PHASES, Epoch
from workers.cnn.checkpoint import unpack_checkpoint
from workers.cnn.finetune import PREDICTIONS
from workers.errors import TransientError
from workers.session import Session
from workers.workbench import Workbench
from workers.write import read_object, write_object, write_record


def leave_model(step: TrainingStep, session: Session, bench: Workbench) -> None:
    """Write everything, and the mark that the training is done last; twice leaves the same model."""
    place = TrainingAddress(RunAddress.of(step.job.output, step.job.run_id))
    results = bench.store(place.run.bucket)
    body = read_object(results, place.checkpoint_key(step.epoch.name))
    if body is None:
        raise TransientError(f"the checkpoint of epoch {step.epoch.name} is not there")
    state, story = unpack_checkpoint(body)
    session.trainee.restore(state)
    records = [EpochRecord.model_validate(told) for told in story]
    digest = _write_model(results, place, session)
    write_object(results, place.model_json_key, describe_model(step, session).to_json())
    provenance = {"run_id": step.job.run_id, "model": step.job.model, "model_sha256": digest}
    _write_table(results, place.layers_key, list_layers(step, session), with_provenance(LAYERS_SCHEMA, provenance))
    _write_table(results, place.history_key, list_epochs(records), with_provenance(HISTORY_SCHEMA, provenance))
    best = max(records, key=lambda record: record.val_accuracy)
    summary = TrainingSummary(
        classes=session.images.classes,
        counts=session.images.counts(),
        epochs=len(records),
        val_accuracy=records[-1].val_accuracy,
        best=Epoch(best.phase, best.epoch).name,
        model_sha256=digest,
        trained_layers=tuple(layer.name for layer in session.trainee.layers),
        seconds=sum(record.seconds for record in records),
        ended_at=datetime.now(UTC),
    )
    write_record(results, place.done_key, summary)


def describe_model(step: TrainingStep, session: Session) -> OwnModel:
    """What stands beside the model: classes in the order of its scores, and the preprocessing it was trained with."""
    classes = [OwnClass(id=name, name=name) for name in session.images.classes]
    return OwnModel.of(job_spec(step.job), classes, note=f"{step.job.model}, fine-tuned in run {step.job.run_id}")


def list_layers(step: TrainingStep, session: Session) -> list[dict[str, Any]]:
    """A row for each layer of the model, and the phases in which it was trained."""
    trained = {layer.name for layer in session.trainee.layers}
    phases = {HEAD: step.training.epochs[HEAD - 1], GROUPS: step.training.epochs[GROUPS - 1]}
    both = ",".join(name for phase, name in PHASES.items() if phases[phase])
    rows = []
    for number, layer in enumerate(session.trainee.whole.layers):
        learns = layer.name in trained and layer.count_params() > 0
        in_which = both if layer.name == PREDICTIONS else PHASES[GROUPS]
        rows.append(
            {
                "number": number,
                "name": layer.name,
                "kind": type(layer).__name__,
                "parameters": layer.count_params(),
                "trained_in": in_which if learns else None,
            }
        )
    return rows


def list_epochs(records: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """A row for each epoch, in their order."""
    return [record.model_dump(include=set(HISTORY_SCHEMA.names)) for record in records]


def _write_model(results: S3Store, place: TrainingAddress, session: Session) -> str:
    """Put the network, scaled images in and softmax out, as Keras stores it; returns its sha256."""
    with tempfile.TemporaryDirectory(prefix="pixelherd-") as directory:
        file = Path(directory) / "model.keras"
        session.trainee.whole.save(file)
        body = file.read_bytes()
    write_object(results, place.model_key, body)
    return hashlib.sha256(body).hexdigest()


def _write_table(results: S3Store, key: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, compression="zstd")
    write_object(results, key, sink.getvalue().to_pybytes())
