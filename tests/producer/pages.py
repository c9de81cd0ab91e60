"""Reports that the tests of pages and accuracies draw: rows as workers write them, without a run."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from config.messages import Job, Mode, Weights
from config.results import ChunkFailure, RunRecord, Status, row_schema
from producer.accuracy import evaluate_survey
from producer.report import RunReport
from producer.status import Phase, RunStatus
from producer.survey import Survey

BEGAN = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)

#: What a hostile person calls a key, to be run by whoever opens the report.
HOSTILE = "in/<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\u202egpj.exe\x00\n.jpg"


def labelled_rows(classes: int, images: int, seed: int = 1) -> pa.Table:
    """Rows of an evaluation: most labels are right, neighbours are confused, scores are too high, some fail."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        label = int(random.integers(classes))
        score = float(random.beta(5, 2))
        right = random.random() < 0.85 * score + 0.05
        best = label if right else (label + int(random.integers(1, min(classes, 4)))) % classes
        row = {"key": f"in/{number}.jpg", "status": "ok", "class_id": f"c{best:04}", "class_name": f"kind {best}"}
        rows.append(row | {"score": score, "label": f"c{label:04}", "rank": 1 if right else int(random.integers(2, 9))})
    rows += [
        {"key": HOSTILE, "status": "undecodable", "error": "<b>no image</b>", "label": "c0000"},
        {"key": "in/no-label.jpg", "status": "ok", "class_id": "c0001", "class_name": "kind 1", "score": 0.5},
        {
            "key": "in/no-class.jpg",
            "status": "ok",
            "class_id": "c0001",
            "class_name": "kind 1",
            "score": 0.5,
            "label": "<i>cta</i>",
        },
    ]
    schema = row_schema(job_of(Mode.EVALUATE))
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema)


def job_of(mode: Mode, **changes: object) -> Job:
    asked = {"run_id": "20261122-103000-x-3fa2", "model": "vgg19", "output": "s3://bucket/out", "mode": mode}
    return Job.model_validate(asked | changes)


def report_of(
    mode: Mode, rows: pa.Table, weights: str = "imagenet", model: str = "vgg19", **changes: object
) -> RunReport:
    """The report of a run that left these rows."""
    job = job_of(mode, weights=Weights(uri=weights), model=model)
    survey = Survey()
    survey.add(rows)
    counts: dict[Status, int] = {}
    for status in rows["status"].to_pylist():
        counts[Status(status)] = counts.get(Status(status), 0) + 1
    record = RunRecord(
        job=job,
        source="s3://bucket/<in>/",
        bucket="bucket",
        labels="folder" if mode is Mode.EVALUATE else None,
        chunk_size=256,
        created_at=BEGAN,
        versions={"python": "3.12.3", "pixelherd": "1.0.0"},
    )
    known = {
        "run_id": job.run_id,
        "address": f"s3://bucket/out/{job.run_id}",
        "phase": Phase.DONE,
        "images": rows.num_rows,
        "listed": rows.num_rows,
        "done": rows.num_rows,
        "failed": 0,
        "counts": counts,
        "chunks": 4,
        "chunks_done": 4,
        "chunks_failed": 0,
        "images_per_s": 96.1,
        "eta_s": None,
        "started_at": BEGAN,
        "ended_at": BEGAN + timedelta(seconds=83),
        "seconds": {"chunk": 160.0, "decode": 41.5, "fetch": 12.1, "infer": 120.3, "starved": 3.0, "write": 1.1},
        "size_bytes": 123_456_789,
    }
    status = RunStatus(**(known | changes))
    failed = ChunkFailure(
        chunk_id="00000-0000000-0016-0a1b2c3d", error="<u>throttled</u>", tries=6, worker="w", failed_at=BEGAN
    )
    evaluation = evaluate_survey(survey, {}) if mode is Mode.EVALUATE else None
    return RunReport(record, status, (failed,) if status.chunks_failed else (), survey, evaluation)
